"""The concave hull of accuracy against joules: the points that are best at some price, and which at which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.calibration.grid import Array


@dataclass(frozen=True)
class Hull:
    """Corners from the cheapest to the most accurate: joules and accuracy (m,), and which point each was."""

    energy_j: Array
    accuracy: Array
    points: tuple[int, ...]

    def tangent(self, per_j: float) -> int:
        """The corner where accuracy - per_j · joules is greatest; the cheapest of several."""
        return int(np.argmax(self.accuracy - per_j * self.energy_j))

    def knee(self) -> int:
        """Kneedle's: the corner farthest above the chord from first to last, so the tangent at its slope."""
        if len(self.points) < 2:
            return 0
        rise, run = self.accuracy[-1] - self.accuracy[0], self.energy_j[-1] - self.energy_j[0]
        return self.tangent(float(rise / run))

    def accuracy_at(self, energy_j: float) -> float:
        """What a mixture of the two corners around it reaches at so many joules; NaN below the cheapest."""
        if energy_j < self.energy_j[0]:
            return float("nan")
        return float(np.interp(energy_j, self.energy_j, self.accuracy))

    def energy_at(self, accuracy: float) -> float:
        """The joules at which the hull reaches an accuracy; NaN above its best, the cheapest's below."""
        if accuracy > self.accuracy[-1]:
            return float("nan")
        return float(np.interp(accuracy, self.accuracy, self.energy_j))


def hull(energy_j: Sequence[float] | Array, accuracy: Sequence[float] | Array) -> Hull:
    """Of points (m,). It rises: points that cost more and answer no better are not on it."""
    joules, right = np.asarray(energy_j, float), np.asarray(accuracy, float)
    order = sorted(range(len(joules)), key=lambda i: (joules[i], -right[i]))
    corners: list[int] = []
    for point in order:
        if corners and right[point] <= right[corners[-1]]:
            continue
        while len(corners) > 1 and _below(joules, right, corners[-2], corners[-1], point):
            corners.pop()
        if len(corners) == 1 and joules[corners[0]] == joules[point]:
            corners.pop()
        corners.append(point)
    return Hull(joules[corners], right[corners], tuple(corners))


def _below(joules: Array, right: Array, first: int, middle: int, last: int) -> bool:
    """Whether the middle point lies on or below the line from first to last."""
    run, rise = joules[last] - joules[first], right[last] - right[first]
    return bool((right[middle] - right[first]) * run <= rise * (joules[middle] - joules[first]))
