"""Where a policy looks at the thinking: behind every written-out step, or behind every so many tokens."""

from engine.errors import UsageError
from engine.steps import Context, Phase, Step


class Checkpoints:
    """`count`: checkpoints reached. `text`: what was written up to the last one, from the one before it.

    `every`: None for the ends of steps, at the format's separator; else a number of thinking tokens.
    """

    def __init__(self, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UsageError(f"every must be at least 1 token, not {every}")
        self.every = every
        self.count, self.text = 0, ""

    def begin(self, context: Context) -> None:
        """A row begins. Raises `UsageError` on a model whose thinking is not marked."""
        if context.step_separator is None:
            raise UsageError(
                "a policy that looks at steps needs a model that marks its thinking and its steps"
            )
        self._separator = context.step_separator
        self._open, self._tokens, self.count, self.text = "", 0, 0, ""

    def reached(self, step: Step) -> bool:
        """Whether one or more were reached with this token. Tokens of the answer reach none."""
        if step.phase is not Phase.THINK:
            return False
        self._open += step.text
        self._tokens += 1
        if self.every is not None:
            if self._tokens % self.every:
                return False
            ended, self._open = [self._open], ""
        else:
            *ended, self._open = self._open.split(self._separator)
        self.count += len(ended)
        if ended:
            self.text = ended[-1]
        return bool(ended)
