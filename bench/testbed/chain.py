r"""Chains of additions and subtractions: every line is needed, and the last one holds the answer.

`47+35-18=` is worked from left to right: `47+35=82\n82-18=64\n`, then the thinking closes by itself; the
answer is `64`. With options the last line ends in the letter of its value, `82-18=64A\n`. The difficulty is
the number of operations.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.folds import fold
from bench.testbed.options import Options
from bench.testbed.vocabulary import STEP_SEPARATOR

MARK = "="
MAX_VALUE = 99
OPERATIONS = range(1, 9)


@dataclass(frozen=True, slots=True)
class Chain:
    """A start value and signed operands, each running value in 0..99.

    `operations`: pairs of "+" or "-" and an operand in 0..99. Raises `ValueError` for a running value
    out of range, an unknown operator, or none or more than 8 operations.
    """

    start: int
    operations: tuple[tuple[str, int], ...]
    options: Options | None = None

    def __post_init__(self) -> None:
        if len(self.operations) not in OPERATIONS:
            raise ValueError(f"a chain has 1..{OPERATIONS[-1]} operations, found {len(self.operations)}")
        for operator, operand in self.operations:
            if operator not in ("+", "-") or not 0 <= operand <= MAX_VALUE:
                raise ValueError(f"operations are + or - with 0..{MAX_VALUE}, found {operator}{operand}")
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
        return str(self.start) + "".join(f"{operator}{operand}" for operator, operand in self.operations)

    @property
    def prompt(self) -> str:
        return self.core + (self.options.text if self.options else "") + MARK

    @property
    def answer(self) -> str:
        value = str(self.values[-1])
        return value if self.options is None else str(self.options.letter(value))

    @property
    def difficulty(self) -> int:
        return len(self.operations)

    @property
    def most_lines(self) -> int:
        return len(self.operations)

    def think(self, rng: random.Random) -> Sequence[str]:
        values = self.values
        lines = [
            f"{values[index]}{operator}{operand}={values[index + 1]}"
            for index, (operator, operand) in enumerate(self.operations)
        ]
        if self.options is not None:
            lines[-1] += self.answer
        return [line + STEP_SEPARATOR for line in lines]

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        return self.answer


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Chain:
    """A uniform start; each operator is fair, its operand uniform over those that keep to 0..99."""
    operations = rng.choice(OPERATIONS) if difficulty is None else difficulty
    while True:
        value = start = rng.randint(0, MAX_VALUE)
        drawn = []
        for _ in range(operations):
            operator = rng.choice("+-")
            operand = rng.randint(0, MAX_VALUE - value if operator == "+" else value)
            value = value + operand if operator == "+" else value - operand
            drawn.append((operator, operand))
        chain = Chain(start, tuple(drawn))
        if fold(chain.core) in folds:
            return Chain(start, tuple(drawn), _options(chain, rng)) if choice else chain


def _options(chain: Chain, rng: random.Random) -> Options:
    """Three distractors: running values, the digits swapped, one or ten beside it; at need any value."""
    right = chain.values[-1]
    swapped = int(f"{right:02d}"[::-1])
    near = {*chain.values, swapped, right - 10, right - 1, right + 1, right + 10} - {right}
    wrong = sorted(value for value in near if 0 <= value <= MAX_VALUE)
    while len(wrong) < 3:
        value = rng.randint(0, MAX_VALUE)
        if value != right and value not in wrong:
            wrong.append(value)
    return Options.shuffled(str(right), [str(value) for value in rng.sample(wrong, 3)], rng)
