r"""Blind search with a random hitting time; one question in four cannot be solved, so giving up can pay.

`3852>4+?` gives distinct digits and a target: find the two whose product ends in it. A try is a line of a
pair, in prompt order, its product's last digit, and `-` for a miss, `326-\n`, or `+` for a hit, `384+\n`;
with options, `3852>4+38A32B85CND?`, a hit ends in its letter, `384a\n`. Pairs are drawn with replacement
until one hits or 32 tries are through. The answer is the pair, `38`, or `N` for none; the difficulty is the
number of digits.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from bench.testbed.folds import fold
from bench.testbed.options import Options
from bench.testbed.vocabulary import STEP_SEPARATOR

MARK = "?"
DIGIT_COUNTS = range(3, 5)
MOST_TRIES = 32
UNSOLVABLE_SHARE = 0.25
NONE = "N"
HIT, MISS = "+", "-"
LINE = 5  # characters of a try


@dataclass(frozen=True, slots=True)
class Search:
    """`digits`: 3 or 4 different ones of 1..9. `target`: the last digit to find, of one pair or of none."""

    digits: str
    target: str
    options: Options | None = None

    @property
    def pairs(self) -> list[str]:
        return [first + second for first, second in combinations(self.digits, 2)]

    @property
    def core(self) -> str:
        return f"{self.digits}>{self.target}"

    @property
    def prompt(self) -> str:
        return self.core + HIT + (self.options.text if self.options else "") + MARK

    @property
    def solution(self) -> str:
        """The pair, or `N`."""
        return next((pair for pair in self.pairs if last_digit(pair) == self.target), NONE)

    @property
    def answer(self) -> str:
        return self._told(self.solution)

    @property
    def difficulty(self) -> int:
        return len(self.digits)

    @property
    def most_lines(self) -> int:
        return MOST_TRIES

    def think(self, rng: random.Random) -> Sequence[str]:
        pairs = self.pairs
        lines: list[str] = []
        while len(lines) < MOST_TRIES:
            pair = rng.choice(pairs)
            product = last_digit(pair)
            mark = self._hit(pair) if product == self.target else MISS
            lines.append(pair + product + mark + STEP_SEPARATOR)
            if product == self.target:
                break
        return lines

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        """The truth, so that an early answer is believed as far as the tries allow; `N` after the last try.

        An early answer knows only the misses so far: its probability is the posterior of a solution.
        """
        if len(lines) == MOST_TRIES and lines[-1][2] != self.target:
            return self._told(NONE)
        return self.answer

    def _hit(self, pair: str) -> str:
        return HIT if self.options is None else str(self.options.written(pair))

    def _told(self, solution: str) -> str:
        return solution if self.options is None else str(self.options.letter(solution))


def last_digit(pair: str) -> str:
    """The last digit of a pair's product."""
    return str(int(pair[0]) * int(pair[1]) % 10)


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Search:
    """Three in four have exactly one pair that hits, the others none. With options, D is always `N`."""
    count = rng.choice(DIGIT_COUNTS) if difficulty is None else difficulty
    hits = 0 if rng.random() < UNSOLVABLE_SHARE else 1
    while True:
        digits = "".join(rng.sample("123456789", count))
        ends = [last_digit(first + second) for first, second in combinations(digits, 2)]
        targets = [digit for digit in "0123456789" if ends.count(digit) == hits]
        if not targets:
            continue
        search = Search(digits, rng.choice(targets))
        if fold(search.core) in folds:
            return Search(digits, search.target, _options(search, rng)) if choice else search


def _options(search: Search, rng: random.Random) -> Options:
    """Three pairs in random order, the solution among them if there is one, then `N`."""
    wrong = rng.sample(
        [pair for pair in search.pairs if pair != search.solution], 3 if search.solution == NONE else 2
    )
    shown = wrong if search.solution == NONE else [search.solution, *wrong]
    rng.shuffle(shown)
    return Options((*shown, NONE))
