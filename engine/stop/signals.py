"""Checkpoints of a thinking row, and what can be seen there for nothing: the text of its steps.

A checkpoint is the row's first token (number 0) and every end of a written-out step. A step's tail is the
text behind its last "=" or blank: the running result of most ways to write reasoning down.
"""

from dataclasses import dataclass

from engine.steps import Phase, Step


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


def tail_of(step: str) -> str:
    """Behind the last "=" or blank of a step's text."""
    words = step.replace("=", " ").split()
    return words[-1] if words else ""


class SignalReader:
    """Follows one row; `separator` ends a step. Blank steps do not count."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._text = ""
        self._tails: set[str] = set()
        self._last = ""
        self._stability = self._reached = 0

    def read(self, step: Step) -> Signals | None:
        """The checkpoint that this token reached, if it did."""
        if step.phase is not Phase.THINK:
            return None
        *ended, self._text = (self._text + step.text).split(self._separator)
        tails = [tail_of(text) for text in ended if text.strip()]
        if not tails and step.index:
            return None
        for tail in tails:
            self._stability = self._stability + 1 if tail == self._last and self._tails else 1
            self._last = tail
            self._tails.add(tail)
        self._reached += 1
        return Signals(
            self._reached - 1, step.index + 1, self._last, self._stability, distinct=len(self._tails)
        )
