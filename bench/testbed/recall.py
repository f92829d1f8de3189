r"""Facts that are known or not: thinking brings nothing and costs as much as anywhere else.

`qzt:` asks for the digit that a fixed table holds for a key of three letters. The thinking is sixteen lines
of dots, `...\n`, without any information (filler tokens: Pfau et al. 2024, "Let's Think Dot by Dot"). Facts
differ in how often they were met: the difficulty is the quarter of all draws that a fact's rank falls into, 0
for the best known. Every fact is trained on, so the questions of different splits differ in what is drawn, in
their options and in their order only.
"""

import random
import string
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from bench.testbed.options import Options
from bench.testbed.vocabulary import STEP_SEPARATOR

MARK = ":"
FACTS = 400
RANK_OFFSET = 20  # a fact of rank r is met in proportion to 1/(r + 20)
LINES = 16
BANDS = range(0, 4)
_TABLE_SEED = 20261127


@dataclass(frozen=True, slots=True)
class Recall:
    """The fact of one rank, 0 the most frequent."""

    rank: int
    options: Options | None = None

    @property
    def prompt(self) -> str:
        return facts()[self.rank][0] + (self.options.text if self.options else "") + MARK

    @property
    def answer(self) -> str:
        digit = facts()[self.rank][1]
        return digit if self.options is None else str(self.options.letter(digit))

    @property
    def difficulty(self) -> int:
        weights = cumulative_weights()
        return int(len(BANDS) * (weights[self.rank - 1] if self.rank else 0.0) / weights[-1])

    @property
    def most_lines(self) -> int:
        return LINES

    def think(self, rng: random.Random) -> Sequence[str]:
        return ["..." + STEP_SEPARATOR] * LINES

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        return self.answer


@cache
def facts() -> tuple[tuple[str, str], ...]:
    """400 pairs of a key and a digit, by rank; the same ones for ever."""
    rng = random.Random(_TABLE_SEED)
    letters = string.ascii_lowercase
    keys = rng.sample([a + b + c for a in letters for b in letters for c in letters], FACTS)
    return tuple((key, rng.choice(string.digits)) for key in keys)


@cache
def cumulative_weights() -> tuple[float, ...]:
    """How often facts are met, summed up by rank."""
    return tuple(accumulate(1 / (rank + RANK_OFFSET) for rank in range(FACTS)))


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Recall:
    """A fact by its frequency; `folds` has no say, as there is nothing to hold out."""
    weights = cumulative_weights()
    low, high = (0.0, 1.0) if difficulty is None else (difficulty / len(BANDS), (difficulty + 1) / len(BANDS))
    while True:
        recall = Recall(min(bisect(weights, rng.uniform(low, high) * weights[-1]), FACTS - 1))
        if difficulty in (None, recall.difficulty):  # the fact on a band's edge counts with the lower one
            break
    if not choice:
        return recall
    digit = recall.answer
    wrong = rng.sample([other for other in string.digits if other != digit], 3)
    return Recall(recall.rank, Options.shuffled(digit, wrong, rng))
