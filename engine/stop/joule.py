"""Stop thinking while there are still joules for an answer, and answering before the budget is gone."""

import math

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop, StopReason
from engine.stop.base import Policy


class JouleBudget(Policy):
    """At most `joules` for the whole request: all rows, prefill and probes, in the meter's joules.

    Thinking ends when what is spent, the next token and the reserve for a bounded answer would pass the
    budget. The reserve is an upper bound of closer, answer prefix and answer on every row, predicted from
    the steps so far. `gain_bound` g keeps a guard band for a sensor that may read a share g too low: the true
    joules then stay within the budget, too.
    """

    def __init__(self, joules: float, *, gain_bound: float = 0.0) -> None:
        if not (math.isfinite(joules) and joules > 0):
            raise UsageError(f"a joule budget must be positive, not {joules}")
        if not 0 <= gain_bound < 1:
            raise UsageError(f"a gain bound must lie in [0, 1), not {gain_bound}")
        self.joules = joules
        self.usable_j = joules * (1 - gain_bound)
        self.reserve_j = 0.0

    def reset(self, context: Context) -> None:
        self._answer_tokens = context.answer_cost_tokens

    def on_token(self, step: Step) -> Stop | None:
        thinking = step.phase is Phase.THINK
        if thinking:
            self.reserve_j = step.predicted_upper_j(self._answer_tokens)
        held = self.reserve_j if thinking else 0.0
        if step.energy().spent_j + step.predicted_j() + held <= self.usable_j:
            return None
        return Stop(StopReason.JOULE_BUDGET)
