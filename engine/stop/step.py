"""Stop thinking after a number of written-out steps."""

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop
from engine.stop.base import Policy


class StepBudget(Policy):
    """At most `steps` steps of the chain of thought, cut where a step ends: at the format's separator."""

    bounds_thinking = True

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise UsageError(f"a step budget must be at least 1, not {steps}")
        self.steps = steps

    def reset(self, context: Context) -> None:
        if context.step_separator is None:
            raise UsageError("a step budget needs a model that marks its thinking and its steps")
        self._separator = context.step_separator
        self._text = ""

    def on_token(self, step: Step) -> Stop | None:
        if step.phase is not Phase.THINK:
            return None
        self._text += step.text
        return Stop() if self._text.count(self._separator) >= self.steps else None
