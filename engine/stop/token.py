"""Stop thinking after a number of tokens."""

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop, StopReason
from engine.stop.base import Policy


class TokenBudget(Policy):
    """At most `tokens` thinking tokens; on a model that does not think, at most `tokens` new tokens."""

    bounds_thinking = True

    def __init__(self, tokens: int) -> None:
        if tokens < 1:
            raise UsageError(f"a token budget must be at least 1, not {tokens}")
        self.tokens = tokens

    def reset(self, context: Context) -> None:
        self._used = 0
        self._counted = Phase.THINK if context.answer_cost_tokens else Phase.ANSWER

    def on_token(self, step: Step) -> Stop | None:
        self._used += step.phase is self._counted
        if self._used < self.tokens or step.phase is not self._counted:
            return None
        return Stop(StopReason.TOKEN_BUDGET)
