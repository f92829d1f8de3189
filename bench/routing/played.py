"""What a rule for choosing arms would have given: right answers and joules, question by question.

A rule has knobs, a price of a joule mostly, and is a point of accuracy and joules at each of them. A rule's
front is the hull of its points: mixtures of two neighbours at random lie on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from bench.calibration.hull import Hull, hull
from router.policy import Array, Picks

THRIFTY = "oracle at a price of joules"


class Kind(StrEnum):
    """What a rule is to a comparison."""

    FIXED = "fixed"
    BASELINE = "baseline"
    OURS = "ours"
    ORACLE = "oracle"


@dataclass(frozen=True)
class Played:
    """`correct`, `energy_j` (S seeds, K knobs, Q questions): every question where it was tested.

    A rule that learns nothing has one seed.
    """

    name: str
    kind: Kind
    knobs: tuple[str, ...]
    correct: Array
    energy_j: Array

    def take(self, rows: Picks) -> "Played":
        """These questions, in this order."""
        return replace(self, correct=self.correct[:, :, rows], energy_j=self.energy_j[:, :, rows])

    def plus(self, energy_j: Array) -> "Played":
        """With so many joules more for each question. energy_j (Q,)."""
        return replace(self, energy_j=self.energy_j + energy_j)

    def columns(self) -> Array:
        """(Q, 2K): means over seeds, right answers and then joules."""
        return np.concatenate([self.correct.mean(0), self.energy_j.mean(0)]).T

    def by_seed(self) -> tuple[Array, Array]:
        """Accuracy and joules per question, each (S, K)."""
        return self.correct.mean(2), self.energy_j.mean(2)

    def accuracy(self) -> Array:
        """(K,)."""
        return self.correct.mean((0, 2))

    def joules(self) -> Array:
        """(K,), per question."""
        return self.energy_j.mean((0, 2))


def front(means: Array) -> Hull:
    """The hull of a rule's points. means (2K,): accuracy of each knob, then joules."""
    half = len(means) // 2
    return hull(means[half:], means[:half])


def fixed(name: str, kind: Kind, knobs: Sequence[str], correct: Array, energy_j: Array) -> Played:
    """A rule that learns nothing. correct, energy_j (Q, K)."""
    return Played(name, kind, tuple(knobs), correct.T[None], energy_j.T[None])
