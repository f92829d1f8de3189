"""Stop thinking where the expected gain in accuracy no longer pays its joules, by a calibrated rule."""

from collections.abc import Callable

from engine.errors import UsageError
from engine.steps import Context, Phase, Probe, ProbeReading, Step, Stop
from engine.stop.base import Policy
from engine.stop.rule import POOLED, Decisions, StoppingRule, decisions, look_up
from engine.stop.signals import SignalReader, Signals


class MarginalValue(Policy):
    """`price`: accuracy points per joule, or a function that tells it at each checkpoint, so that it may
    move.

    None: the rule's own price. `rule` None: that of the engine's operating curve. `category` None: as the
    request says; one that the calibration never saw is decided by the rule of all categories together, and
    `description` says so. Beyond the last checkpoint that any calibrating run reached it stops.
    """

    bounds_thinking = True

    def __init__(
        self,
        price: float | Callable[[], float] | None = None,
        *,
        rule: StoppingRule | None = None,
        category: str | None = None,
    ) -> None:
        self._price, self._given, self._category = price, rule, category
        self._solved: dict[float, Decisions] = {}
        self.needs = frozenset({"probe"}) if rule is not None and rule.probes else frozenset()

    def reset(self, context: Context) -> None:
        if context.step_separator is None:
            raise UsageError("the marginal-value rule needs a model that marks its thinking and its steps")
        rule = self._given or (context.curve.stopping if context.curve else None)
        if rule is None:
            raise UsageError(
                "no stopping rule was calibrated for this model here: python -m bench.calibrate fits one"
            )
        if context.curve is not None:
            rule.require(context.curve.fits.model, context.curve.fits.quantization)
        if rule.probes and not self.needs:
            raise UsageError(
                "this stopping rule probes: the policy must be made with it, MarginalValue(rule=…)"
            )
        self._rule, self._asked = rule, self._category or context.category
        self._name, self._states = rule.of(self._asked)
        self._prompt_tokens = context.prompt_tokens
        self._reader = SignalReader(context.step_separator)
        self._at: Signals | None = None

    def on_token(self, step: Step) -> Stop | Probe | None:
        if step.phase is not Phase.THINK:
            return None
        self._at = self._reader.read(step)
        if self._at is None:
            return None
        return Probe() if self._states.axes.confidence else self._decide(0.0)

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        return self._decide(float(reading.probabilities.max()))

    def price(self) -> float:
        """Accuracy points per joule, now."""
        if self._price is None:
            return self._rule.price
        return self._price() if callable(self._price) else self._price

    @property
    def description(self) -> str:
        """Which rule decides, and at what price."""
        unseen = ""
        if self._name == POOLED:
            unseen = f" (no calibration saw {self._asked!r})" if self._asked else " (the request names none)"
        return f"marginal value, category {self._name!r}{unseen}, {self.price():.4g} points per joule"

    def _decide(self, confidence: float) -> Stop | None:
        assert self._at is not None
        price = self.price()
        if price not in self._solved:
            self._solved = {price: decisions(self._states, price)}
        cell = self._states.axes.cell(self._at, self._prompt_tokens, confidence)
        found = look_up(self._solved[price], self._at.checkpoint, cell)
        return Stop() if found is None or found.stops else None
