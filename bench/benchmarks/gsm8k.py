"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school problems whose solution ends in "#### NUMBER"."""

from collections.abc import Iterable

from bench.benchmarks.files import Line, text_of
from bench.benchmarks.item import Item
from engine.errors import TokenjouleError

NAME = "gsm8k"
MARK = "####"


def parse_gsm8k(lines: Iterable[Line], split: str) -> list[Item]:
    """`answer` is the number behind the mark. Raises `TokenjouleError`."""
    found = []
    for index, (where, line) in enumerate(lines):
        _, mark, answer = text_of(where, line, "answer").rpartition(MARK)
        if not mark or not answer.strip():
            raise TokenjouleError(f"{where}: the answer does not end in {MARK} and a number")
        question = text_of(where, line, "question")
        found.append(Item(f"{split}/{index}", question, None, answer.strip(), "grade school", NAME))
    return found
