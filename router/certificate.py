"""Finite-sample promises: exact binomial bounds, and a threshold whose accuracy is certified.

Clopper and Pearson (1934), by bisection over the binomial tail. Fixed-sequence testing: thresholds are tried
from the strictest on and the first that fails ends it, so all tests together err with probability ≤ delta
and no correction is due. That holds for probabilities `p` that were fitted on other questions.
"""

import math
from functools import lru_cache

import numpy as np

from router.policy import Array, cheapest_certain, picked

THRESHOLDS = tuple(round(1 - 0.01 * step, 2) for step in range(100))  # 1.00, 0.99, … 0.01


def upper_tail(right: int, total: int, p: float) -> float:
    """P(X ≥ right) for X ~ Binomial(total, p)."""
    if right <= 0 or p >= 1:
        return 1.0
    if p <= 0:
        return 0.0
    k = np.arange(right, total + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])  # log k! for k = 0 … total
    terms = logs[total] - logs[k] - logs[total - k] + k * math.log(p) + (total - k) * math.log1p(-p)
    return min(float(np.exp(terms).sum()), 1.0)


@lru_cache(maxsize=1 << 16)
def lower_bound(right: int, total: int, delta: float) -> float:
    """The p below which `right` of `total` or more would come with probability < `delta`."""
    if not 0 <= right <= total:
        raise ValueError(f"{right} of {total} cannot be right")
    low, high = 0.0, right / total if total else 0.0
    for _ in range(40):  # to 1e-12
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(right, total, middle) < delta else (low, middle)
    return low


def interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided, covers at least `level`."""
    half = (1 - level) / 2
    return lower_bound(right, total, half), 1 - lower_bound(total - right, total, half)


def certified_threshold(
    p: Array, cost: Array, correct: Array, *, target: float, delta: float
) -> float | None:
    """The loosest threshold of `cheapest_certain` that is certified: P(its accuracy < target) ≤ delta.

    p, cost, correct (N, A), of questions that `p` was not fitted on. None where not even the strictest is.
    """
    found = None
    for threshold in THRESHOLDS:
        right = picked(correct, cheapest_certain(p, cost, threshold))
        if lower_bound(int(right.sum()), len(right), delta) < target:
            return found
        found = threshold
    return found
