"""Accuracy that saturates in joules: A(E) = A∞ - (A∞ - A0)·exp(-(E - E0)/κ), and where it stops paying."""

import math
from dataclasses import dataclass

import numpy as np

from bench.calibration.grid import Array


@dataclass(frozen=True, slots=True)
class Saturating:
    """`limit` A∞, `start` A0 at the cheapest point's `start_j`, `scale_j` κ; `rms` of what is left, weighted.

    Accuracy may fall (A∞ < A0), as it does where thinking does harm.
    """

    limit: float
    start: float
    start_j: float
    scale_j: float
    rms: float

    def accuracy(self, energy_j: float) -> float:
        return self.limit - (self.limit - self.start) * math.exp(-(energy_j - self.start_j) / self.scale_j)

    def best_j(self, per_j: float) -> float:
        """E* = E0 + κ·ln((A∞ - A0)/(λκ)), where the slope is λ accuracy per joule; E0 where it never is.

        Infinite where joules are free and thinking helps.
        """
        gain = self.limit - self.start
        if gain <= per_j * self.scale_j:
            return self.start_j
        if per_j == 0:
            return math.inf
        return self.start_j + self.scale_j * math.log(gain / (per_j * self.scale_j))


def fit_saturating(energy_j: Array, accuracy: Array, weights: Array | None = None) -> Saturating:
    """By least squares over points (m,), weighted. For each κ the rest is linear, κ by golden section.

    Raises `ValueError` for fewer than three points or joules that are all the same.
    """
    weights = np.ones(len(energy_j)) if weights is None else weights
    start_j, span = float(energy_j.min()), float(np.ptp(energy_j))
    if len(energy_j) < 3 or span <= 0:
        raise ValueError("a saturating curve needs three points of different joules")

    def solved(log_scale: float) -> tuple[float, Array]:
        decay = np.exp(-(energy_j - start_j) / math.exp(log_scale))
        root = np.sqrt(weights)
        design = np.stack([1 - decay, decay], axis=1) * root[:, None]
        found = np.linalg.lstsq(design, accuracy * root, rcond=None)[0]
        return float(np.sum((design @ found - accuracy * root) ** 2)), found

    grid = np.linspace(math.log(span / 100), math.log(span * 3), 60)
    losses = [solved(point)[0] for point in grid]
    best = int(np.argmin(losses))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if solved(left)[0] <= solved(right)[0]:
            high = right
        else:
            low = left
    scale = (low + high) / 2
    loss, (limit, start) = solved(scale)
    rms = math.sqrt(loss / float(weights.sum()))
    return Saturating(float(limit), float(start), start_j, math.exp(scale), rms)
