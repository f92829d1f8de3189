r"""Chains of additions and subtractions: every line is needed, and the last one holds the answer.

`a+5b-8>47=` asks for 47 + 5 - 8, one lettered operation after the other: `a+5=52\nb-8=44\n`, then the
thinking closes by itself; the answer is `44`. With options, `a+5b-8>44A52B39C47D>47=`, the last line ends in
the letter of its value, `b-8=44a\n`. The difficulty is the number of operations. An operation is found by its
letter, and the value before it at a fixed distance: what a line needs is looked up, not counted off.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bench.testbed.folds import fold
from bench.testbed.options import Options
from bench.testbed.vocabulary import LETTERS, STEP_SEPARATOR

MARK = "="
NAMES = "abcdefgh"
MAX_VALUE = 99
MAX_OPERAND = 9
OPERATIONS = range(1, 9)
CHANGES = [change for change in range(-MAX_OPERAND, MAX_OPERAND + 1) if change]


@dataclass(frozen=True, slots=True)
class Chain:
    """A start value and signed operands, each running value in 0..99.

    `operations`: pairs of "+" or "-" and an operand in 1..9. Raises `ValueError` for a running value
    out of range, an unknown operator, or none or more than 8 operations.
    """

    start: int
    operations: tuple[tuple[str, int], ...]
    options: Options | None = None

    def __post_init__(self) -> None:
        if len(self.operations) not in OPERATIONS:
            raise ValueError(f"a chain has 1..{OPERATIONS[-1]} operations, found {len(self.operations)}")
        for operator, operand in self.operations:
            if operator not in ("+", "-") or not 1 <= operand <= MAX_OPERAND:
                raise ValueError(f"operations are + or - with 1..{MAX_OPERAND}, found {operator}{operand}")
        for value in self.values:
            if not 0 <= value <= MAX_VALUE:
                raise ValueError(f"running values stay in 0..{MAX_VALUE}, found {value} in {self.prompt}")

    @property
    def values(self) -> tuple[int, ...]:
        """The start and the value after each operation: one more than there are operations."""
        values = [self.start]
        for operator, operand in self.operations:
            values.append(values[-1] + operand if operator == "+" else values[-1] - operand)
        return tuple(values)

    @property
    def core(self) -> str:
        return self._asked("")

    @property
    def prompt(self) -> str:
        return self._asked(self.options.text + ">" if self.options else "") + MARK

    def _asked(self, options: str) -> str:
        named = zip(NAMES, self.operations, strict=False)
        return (
            "".join(f"{name}{op}{operand}" for name, (op, operand) in named) + f">{options}{self.start:02d}"
        )

    @property
    def answer(self) -> str:
        value = f"{self.values[-1]:02d}"
        return value if self.options is None else str(self.options.letter(value))

    @property
    def difficulty(self) -> int:
        return len(self.operations)

    @property
    def most_lines(self) -> int:
        return len(self.operations)

    def think(self, rng: random.Random) -> Sequence[str]:
        lines = [
            f"{name}{operator}{operand}={value:02d}"
            for name, (operator, operand), value in zip(NAMES, self.operations, self.values[1:], strict=False)
        ]
        if self.options is not None:
            lines[-1] += self.answer.lower()
        return [line + STEP_SEPARATOR for line in lines]

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        return self.answer


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Chain:
    """A uniform start; operator and operand uniform over those that keep the value in 0..99."""
    operations = rng.choice(OPERATIONS) if difficulty is None else difficulty
    while True:
        value = start = rng.randint(0, MAX_VALUE)
        drawn = []
        for _ in range(operations):
            change = rng.choice([c for c in CHANGES if 0 <= value + c <= MAX_VALUE])
            value += change
            drawn.append(("+" if change > 0 else "-", abs(change)))
        chain = Chain(start, tuple(drawn))
        if fold(chain.core) in folds:
            return Chain(start, tuple(drawn), _options(chain, rng)) if choice else chain


def _options(chain: Chain, rng: random.Random) -> Options:
    """Four values within ten, no two with the same last digit.

    The right one is the least, the second, third or greatest of them equally often, and all gaps are alike,
    so that nothing but the chain tells it from the others.
    """
    right = chain.values[-1]
    while True:
        gaps = rng.choices(range(1, 4), k=len(LETTERS) - 1)
        values = list(accumulate(gaps, initial=right - sum(gaps[: rng.randrange(len(LETTERS))])))
        if values[0] >= 0 and values[-1] <= MAX_VALUE:
            break
    wrong = [f"{value:02d}" for value in values if value != right]
    return Options.shuffled(f"{right:02d}", wrong, rng)
