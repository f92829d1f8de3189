"""g: from a forced answer's confidence to the probability that it is right, by isotonic regression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.calibration.bootstrap import folds
from bench.calibration.grid import Array


@dataclass(frozen=True)
class Isotonic:
    """A rising staircase: from `edges` (m,) on the probability is `levels` (m,); below the first, its own."""

    edges: Array
    levels: Array

    def __call__(self, confidence: Array) -> Array:
        place = np.searchsorted(self.edges, confidence, side="right") - 1
        return np.asarray(self.levels[np.maximum(place, 0)])


def fit_isotonic(confidence: Array, correct: Array) -> Isotonic:
    """Pool adjacent violators: the rising function closest to `correct` (n,) in squares.

    Raises `ValueError` without a value.
    """
    if not len(confidence):
        raise ValueError("there is no confidence to calibrate")
    edges, inverse = np.unique(confidence, return_inverse=True)
    sums = np.bincount(inverse, weights=correct)
    blocks: list[list[float]] = []  # first edge, sum, size
    for edge, total, size in zip(edges, sums, np.bincount(inverse), strict=True):
        blocks.append([edge, total, float(size)])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            _, total, count = blocks.pop()
            blocks[-1][1] += total
            blocks[-1][2] += count
    found = np.array(blocks)
    return Isotonic(found[:, 0], found[:, 1] / found[:, 2])


def cross_fitted(confidence: Array, correct: Array, clusters: NDArray[np.int64], *, count: int = 5) -> Array:
    """g (n,) of each reading, by a fit that never saw its question."""
    found = np.empty(len(confidence))
    for training, held_out in folds(clusters, count):
        found[held_out] = fit_isotonic(confidence[training], correct[training])(confidence[held_out])
    return found


def cuts(confidence: Array, correct: Array, bins: int) -> tuple[float, ...]:
    """Where to cut confidence so that at most `bins` bins hold about equally many and differ in g."""
    stairs = fit_isotonic(confidence, correct)
    wanted = np.quantile(confidence, np.arange(1, bins) / bins)
    place = np.searchsorted(stairs.edges, wanted, side="right") - 1
    return tuple(sorted({float(stairs.edges[i]) for i in place if i > 0}))


def calibration_error(predicted: Array, correct: Array, bins: int = 10) -> float:
    """Expected: the mean distance of predicted and seen accuracy over bins of equal size."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    gaps = [len(part) * abs(predicted[part].mean() - correct[part].mean()) for part in parts]
    return float(sum(gaps) / len(predicted))
