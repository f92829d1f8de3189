"""Finding stop sequences in a text that arrives in pieces."""

from collections.abc import Sequence


class StopSequences:
    """Lets text through up to the first stop sequence; holds back what may still become one."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.dropped = 0  # characters from the stop sequence on, once one was found

    def push(self, piece: str, pending: str = "") -> tuple[str, bool]:
        """(text that is certain now, whether a stop sequence was found; the text then ends before it).

        `pending`: text that is not certain yet, but would follow if nothing else came.
        """
        if not self._sequences:
            return piece, False
        text = self._held + piece
        shown = text + pending
        found = [at for sequence in self._sequences if (at := shown.find(sequence)) >= 0]
        if found:
            self._held = ""
            self.dropped = len(shown) - min(found)
            return shown[: min(found)], True
        keep = max((_overlap(text, sequence) for sequence in self._sequences), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """What was held back for nothing."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of `text` that is a beginning of `sequence`."""
    longest = min(len(text), len(sequence) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(sequence[:n])), 0)
