"""Stop thinking where the expected gain in accuracy no longer pays its joules, by a calibrated rule."""

from collections.abc import Mapping

from engine.errors import UsageError
from engine.steps import Context, Probe, ProbeReading, Step, Stop
from engine.stop.base import Policy
from engine.stop.dial import Dial
from engine.stop.rule import POOLED, Decisions, StoppingRule, decisions, look_up
from engine.stop.signals import SignalReader, Signals


class MarginalValue(Policy):
    """`price`: accuracy points per joule; None for the request's, which may change while it runs.

    A request without a price is decided at the rule's own. `rule`: None for that of the engine's operating
    curve. A category that the calibration never saw is decided by the rule of all categories together, and
    `description` says so. Beyond the last checkpoint that any calibrating run reached it stops.
    """

    bounds_thinking = True
    prices_probes = True  # the calibration put them on the bill, at every checkpoint

    def __init__(self, price: float | None = None, *, rule: StoppingRule | None = None) -> None:
        self.price = Dial(price=price).price
        self._given = rule
        self.needs = frozenset({"logprob"}) if rule is None else rule.needs
        self.reads_price = price is None
        self._reader = SignalReader(scored="logprob" in self.needs)
        self._solved: dict[float, Decisions] = {}

    def reset(self, context: Context) -> None:
        self._reader.begin(context)
        rule = self._given or (context.curve.stopping if context.curve else None)
        if rule is None:
            raise UsageError(
                "no stopping rule was calibrated for this model here: python -m bench.calibrate fits one"
            )
        if context.curve is not None:
            rule.require(context.curve.fits.model, context.curve.fits.quantization)
        if not rule.needs <= self.needs:
            asked = " and ".join(sorted(rule.needs - self.needs))
            raise UsageError(f"this rule needs {asked}: make the policy with it, MarginalValue(rule=…)")
        self._rule, self._context = rule, context
        self._name, self._states = rule.of(context.category)

    def on_token(self, step: Step) -> Stop | Probe | None:
        at = self._reader.read(step)
        if at is None:
            return None
        if not self._states.axes.confidence:
            return self._decide(at, 0.0)
        self._at = at
        return Probe()

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        return self._decide(self._at, reading.confidence)

    @property
    def price_now(self) -> float:
        """Accuracy points per joule at this moment."""
        for price in (self.price, self._context.price):
            if price is not None:
                return price
        return self._rule.price

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"price": self.price}

    @property
    def description(self) -> str:
        """Which rule decides, and at what price."""
        asked = self._context.category
        unseen = f" (no calibration saw {asked!r})" if asked else " (the request names none)"
        by = f"{self._name!r}{unseen if self._name == POOLED else ''}"
        now, then = self._context.temperature, self._rule.temperature
        other = f"; calibrated at temperature {then:g}, not {now:g}" if now not in (None, then) else ""
        return f"marginal value by category {by}, {self.price_now:.4g} points per joule{other}"

    def _decide(self, at: Signals, confidence: float) -> Stop | None:
        price = self.price_now
        if price not in self._solved:
            self._solved = {price: decisions(self._states, price)}
        cell = self._states.axes.cell(at, self._context.prompt_tokens, confidence)
        found = look_up(self._solved[price], at.checkpoint, cell)
        return Stop() if found is None or found.stops else None
