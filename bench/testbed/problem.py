"""What the four families have in common: a problem, its written-out thinking, and what an answer is."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.testbed.options import Options


class Problem(Protocol):
    """One question of a family, with what is needed to write training sequences for it."""

    @property
    def prompt(self) -> str: ...

    @property
    def answer(self) -> str:
        """The right answer: one or two characters, a letter where there are options."""

    @property
    def options(self) -> Options | None: ...

    @property
    def difficulty(self) -> int: ...

    @property
    def most_lines(self) -> int:
        """The longest that thinking about it gets, in lines."""

    def think(self, rng: random.Random) -> Sequence[str]:
        """A whole thought, line by line, each with its newline."""

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        """The answer that is taught after these whole lines. Not always the right one."""


class Sample(Protocol):
    """Draws a problem whose fold is among `folds`, with or without options, of any difficulty if None."""

    def __call__(
        self, rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None
    ) -> Problem: ...


@dataclass(frozen=True, slots=True)
class Family:
    """`mark`: the character that ends every prompt of the family."""

    sample: Sample
    difficulties: range
    mark: str
