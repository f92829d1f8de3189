"""Stop thinking after a number of written-out steps."""

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints


class StepBudget(Policy):
    """At most `steps` steps of the chain of thought, cut where a step ends: at the format's separator."""

    bounds_thinking = True

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise UsageError(f"a step budget must be at least 1, not {steps}")
        self.steps = steps
        self._ends = Checkpoints()

    def reset(self, context: Context) -> None:
        self._ends.begin(context)

    def on_token(self, step: Step) -> Stop | None:
        self._ends.reached(step)
        return Stop() if step.phase is Phase.THINK and self._ends.count >= self.steps else None
