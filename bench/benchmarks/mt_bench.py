"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): 80 questions of two turns, judged, so without answers."""

from collections.abc import Iterable

from bench.benchmarks.files import Line
from bench.benchmarks.item import Item
from engine.errors import TokenjouleError

NAME = "mt-bench"


def parse_mt_bench(lines: Iterable[Line], turn: int = 1) -> list[Item]:
    """The texts of one turn. Turn 2 is its own text alone, without turn 1 and its answer.

    `id` is the question's, or its place in a file that has none. Raises `TokenjouleError`.
    """
    found = []
    for place, (where, line) in enumerate(lines):
        turns = line.get("turns")
        text = turns[turn - 1] if isinstance(turns, list) and len(turns) >= turn else None
        if not isinstance(text, str) or not text.strip():
            raise TokenjouleError(f"{where}: not a question with a turn {turn}")
        identity = str(line.get("question_id", place))
        found.append(Item(identity, text, None, None, str(line.get("category", "")), NAME))
    return found
