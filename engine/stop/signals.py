"""What can be seen for nothing at a checkpoint of a thinking row: its steps' text, and how likely it was.

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

    `distinct`: different tails so far. All are 0 or empty before the first step has ended. `surprisal`: -ln p
    (nats) of the least likely token of the last step, the first token being its first step's, `worst` of all
    so far, by the model's own probabilities; 0 where they are not looked at.
    """

    checkpoint: int
    think_tokens: int
    tail: str = ""
    stability: int = 0
    distinct: int = 0
    surprisal: float = 0.0
    worst: float = 0.0


class SignalReader:
    """Follows one row. `scored`: surprisals are looked at, so steps have log-probabilities."""

    def __init__(self, *, scored: bool = False) -> None:
        self._ends, self._streak, self._scored = Checkpoints(), Streak(exactly), scored

    def begin(self, context: Context) -> None:
        """A row begins. Raises `UsageError` on a model whose thinking is not marked."""
        self._ends.begin(context)
        self._streak.forget()
        self._tails: set[str] = set()
        self._tail, self._reached = "", 0
        self._surprisal, self._worst = 0.0, 0.0

    def read(self, step: Step) -> Signals | None:
        """What is to be seen at this token, if it reached a checkpoint."""
        ended = self._ends.reached(step)
        if self._scored and step.phase is Phase.THINK and not step.forced:
            self._surprisal = max(self._surprisal, -step.log_probability())
            self._worst = max(self._worst, self._surprisal)
        if step.phase is not Phase.THINK or not (ended or step.index == 0):
            return None
        if ended:
            self._tail = tail(self._ends.text)
            self._streak.add(self._tail)
            self._tails.add(self._tail)
        self._reached += 1
        found = Signals(
            self._reached - 1,
            step.index + 1,
            self._tail,
            self._streak.length,
            len(self._tails),
            self._surprisal,
            self._worst,
        )
        if ended:
            self._surprisal = 0.0
        return found
