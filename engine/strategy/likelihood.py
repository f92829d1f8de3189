"""How likely a model finds what it wrote: the mean log-probability of each row's tokens."""

from engine.result import Generation
from engine.steps import Prefill, Step


class Likelihood:
    """A hook. Tokens that were injected count for nothing: the model did not choose them."""

    needs = frozenset({"logprob"})

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, int]] = {}

    def mean(self, row: int) -> float | None:
        """In nats; None before the row's first token."""
        if row not in self._sums:
            return None
        total, tokens = self._sums[row]
        return total / tokens

    def on_prefill(self, prefill: Prefill) -> None:
        """Nothing yet."""

    def on_step(self, step: Step) -> None:
        if not step.forced:
            total, tokens = self._sums.get(step.row, (0.0, 0))
            self._sums[step.row] = total + step.log_probability(), tokens + 1

    def on_end(self, result: Generation) -> None:
        """All is read."""
