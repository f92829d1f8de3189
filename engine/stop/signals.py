"""What can be seen for nothing at a checkpoint of a thinking row: the text of its steps.

A checkpoint is the row's first token (number 0) and every end of a written-out step; the next token is chosen
by then, or about to be.
"""

from dataclasses import dataclass

from engine.steps import Context, Phase, Step
from engine.stop.checkpoints import Checkpoints
from engine.stop.stability import Streak, exactly, tail


@dataclass(frozen=True, slots=True)
class Signals:
    """`think_tokens`: written up to here. `stability`: steps in a row, this one included, with this `tail`.

    `distinct`: different tails so far. All are 0 or empty before the first step has ended.
    """

    checkpoint: int
    think_tokens: int
    tail: str = ""
    stability: int = 0
    distinct: int = 0


class SignalReader:
    """Follows one row."""

    def __init__(self) -> None:
        self._ends, self._streak = Checkpoints(), Streak(exactly)

    def begin(self, context: Context) -> None:
        """A row begins. Raises `UsageError` on a model whose thinking is not marked."""
        self._ends.begin(context)
        self._streak.forget()
        self._tails: set[str] = set()
        self._tail, self._reached = "", 0

    def read(self, step: Step) -> Signals | None:
        """What is to be seen at this token, if it reached a checkpoint."""
        ended = self._ends.reached(step)
        if step.phase is not Phase.THINK or not (ended or step.index == 0):
            return None
        if ended:
            self._tail = tail(self._ends.text)
            self._streak.add(self._tail)
            self._tails.add(self._tail)
        self._reached += 1
        return Signals(
            self._reached - 1, step.index + 1, self._tail, self._streak.length, distinct=len(self._tails)
        )
