"""Four options of a question, written `64A46B61C70D`; the answer is a letter.

The value stands before its letter, so that whoever has just written a value finds its letter where that value
was followed by one before: the pattern that attention learns soonest (induction heads, Olsson et al. 2022).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCD"


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
