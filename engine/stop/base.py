"""A policy that does nothing: subclass it and write the one method you need."""

from collections.abc import Mapping

from engine.steps import Context, Inject, Probe, ProbeReading, Step, Stop, StopPolicy


class Policy:
    """See `engine.steps.StopPolicy`. What `needs` does not name is neither computed nor paid for.

    `bounds_thinking`: the row's thinking also ends in time for an answer within the request's tokens.
    `reads_price`: it weighs joules by the request's price. `prices_probes`: by that price its probes, too, so
    that no share of the total has to bound them unless somebody names one.
    """

    needs: frozenset[str] = frozenset()
    bounds_thinking = False
    reads_price = False
    prices_probes = False

    @property
    def name(self) -> str:
        """As results call it."""
        return type(self).__name__

    @property
    def description(self) -> str:
        """What a result should say of how it decides, beside name and parameters."""
        return ""

    @property
    def parameters(self) -> Mapping[str, object]:
        """What it was made with, for results: its public attributes that JSON can hold."""
        plain = bool | int | float | str | None
        return {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and isinstance(value, plain)
        }

    def reset(self, context: Context) -> None:
        """A row begins."""

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        """A token was added to the row."""
        return None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        """The probe asked for at `step` was read."""
        return None


class Wrapper(Policy):
    """A policy around another: what it does not change is the inner one's."""

    def __init__(self, inner: StopPolicy) -> None:
        self._inner = inner
        self.needs = inner.needs
        self.bounds_thinking = getattr(inner, "bounds_thinking", False)
        self.reads_price = getattr(inner, "reads_price", False)
        self.prices_probes = getattr(inner, "prices_probes", False)

    @property
    def name(self) -> str:
        return name_of(self._inner)

    @property
    def parameters(self) -> Mapping[str, object]:
        own = {name: value for name, value in super().parameters.items() if name not in _OF_THE_INNER}
        return {**getattr(self._inner, "parameters", {}), **own}

    @property
    def description(self) -> str:
        return getattr(self._inner, "description", "")

    def reset(self, context: Context) -> None:
        self._inner.reset(context)

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        return self._inner.on_token(step)

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        return self._inner.on_probe(step, reading)


_OF_THE_INNER = ("bounds_thinking", "reads_price", "prices_probes")


def name_of(policy: object) -> str:
    """What results call a policy: its own `name`, else its class."""
    name = getattr(policy, "name", None)
    return name if isinstance(name, str) else type(policy).__name__
