"""Four options of a question, written `64A46B61C70D`; the answer is a letter.

In a thought letters are small, `64a`: there they are tokens of their own, which in `64A` they are not.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.vocabulary import LETTERS


@dataclass(frozen=True, slots=True)
class Options:
    """`values`: what A, B, C and D stand for, all different. Raises `ValueError` otherwise."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(LETTERS) or len(self.values) != len(LETTERS):
            raise ValueError(f"a question has four different options, found {', '.join(self.values)}")

    @classmethod
    def shuffled(cls, right: str, wrong: Sequence[str], rng: random.Random) -> "Options":
        """The right value and three wrong ones, in random order."""
        values = [right, *wrong]
        rng.shuffle(values)
        return cls(tuple(values))

    @property
    def text(self) -> str:
        return "".join(value + letter for letter, value in zip(LETTERS, self.values, strict=True))

    def letter(self, value: str) -> str | None:
        """The letter of a value, None where it is not among the options."""
        return LETTERS[self.values.index(value)] if value in self.values else None

    def written(self, value: str) -> str | None:
        """The letter of a value as thoughts write it, None where it is not among the options."""
        letter = self.letter(value)
        return letter and letter.lower()
