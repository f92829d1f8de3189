"""Stop thinking while there are still joules for an answer, and answering before the budget is gone."""

import math

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop, StopReason
from engine.stop.base import Policy


class JouleBudget(Policy):
    """At most `joules` for the whole request: all rows, prefill and probes, in the meter's joules.

    Thinking ends when what is spent, the next token and the reserve for a bounded answer would pass the
    budget, to the nearest token. The reserve is an upper bound of closer, answer prefix and answer on every
    row, predicted from the steps so far. `gain_bound` g keeps a guard band for a sensor that may read a share
    g too low: the true joules then stay within the budget, too.
    """

    bounds_thinking = True

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
        if step.phase is Phase.THINK:
            self.reserve_j = step.predicted_upper_j(self._answer_tokens)
            # To the nearest token: half the next one may pass the line. The reserve holds a whole worst step
            # beyond the answer's own, so the request as a whole still ends inside the budget.
            ahead_j = step.predicted_j() / 2 + self.reserve_j
        else:
            ahead_j = step.predicted_j()
        over = step.energy().spent_j + ahead_j > self.usable_j
        return Stop(StopReason.JOULE_BUDGET) if over else None
