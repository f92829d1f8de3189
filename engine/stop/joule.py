"""Stop thinking while there are still joules for an answer, and answering before the budget is gone."""

from collections.abc import Mapping

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop, StopReason
from engine.stop.base import Policy
from engine.stop.dial import Dial


class JouleBudget(Policy):
    """At most `joules` for the whole request: all rows, prefill and probes, in the meter's joules.

    A `Dial` in place of the number may be turned while the request runs; it is read at every token. Thinking
    ends when what is spent, the next token and the reserve for a bounded answer would pass the budget, to the
    nearest token. The reserve is an upper bound of closer, answer prefix and answer on every row, predicted
    from the steps so far. `gain_bound` g keeps a guard band for a sensor that may read a share g too low: the
    true joules then stay within the budget, too.
    """

    bounds_thinking = True

    def __init__(self, joules: float | Dial, *, gain_bound: float = 0.0) -> None:
        self.dial = joules if isinstance(joules, Dial) else Dial(budget_j=joules)
        if self.dial.budget_j is None:
            raise UsageError("a joule budget needs a dial that has one")
        if not 0 <= gain_bound < 1:
            raise UsageError(f"a gain bound must lie in [0, 1), not {gain_bound}")
        self.gain_bound = gain_bound
        self.reserve_j = 0.0

    @property
    def joules(self) -> float:
        """The budget as it is now."""
        assert self.dial.budget_j is not None
        return self.dial.budget_j

    @property
    def usable_j(self) -> float:
        """The budget without its guard band."""
        return self.joules * (1 - self.gain_bound)

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"joules": self.joules, "gain_bound": self.gain_bound}

    def reset(self, context: Context) -> None:
        self._answer_tokens = context.answer_cost_tokens

    def on_token(self, step: Step) -> Stop | None:
        if step.phase is Phase.THINK:
            self.reserve_j = step.predicted_upper_j(self._answer_tokens)
            # To the nearest token: half the next one may pass the line. The reserve holds a whole worst step
            # beyond the answer's own, so the request as a whole still ends inside the budget.
            ahead_j = step.predicted_j() / 2 + self.reserve_j
        else:
            ahead_j = step.predicted_j()
        over = step.energy().spent_j + ahead_j > self.usable_j
        return Stop(StopReason.JOULE_BUDGET) if over else None
