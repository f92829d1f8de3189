"""What probabilities are worth: losses, calibration errors, exact bounds of shares, coverage of bounds.

Bounds are those of Clopper and Pearson (1934).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST = 1e-6  # from 0 and 1: no chance counts as more certain


def log_loss(p: Array, correct: Array) -> float:
    """Mean over what is known, nats."""
    kept = np.clip(p, _LEAST, 1 - _LEAST)
    return -float(np.nanmean(correct * np.log(kept) + (1 - correct) * np.log1p(-kept)))


def logit(p: Array) -> Array:
    """log(p / (1 − p)), finite."""
    kept = np.clip(p, _LEAST, 1 - _LEAST)
    return np.log(kept / (1 - kept))


def reliability(p: Array, correct: Array, bins: int = 10) -> Array:
    """(B, 3): mean p, share right, count, in bins of equal mass. p, correct (N,), nan where unknown."""
    known = ~(np.isnan(p) | np.isnan(correct))
    p, correct = p[known], correct[known]
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return np.array([[p[part].mean(), correct[part].mean(), len(part)] for part in parts if len(part)])


def ece(p: Array, correct: Array, bins: int = 10) -> float:
    """Expected calibration error in bins of equal mass. p, correct (N,), nan where unknown."""
    believed, right, count = reliability(p, correct, bins).T
    return float((np.abs(believed - right) * count).sum() / count.sum())


def coverage(bound: Array, actual: Array) -> float:
    """The share of what is known that lies within its bound."""
    known = ~(np.isnan(bound) | np.isnan(actual))
    return float((actual[known] <= bound[known]).mean())


def lower_bound(right: Any, total: int, delta: float) -> Any:
    """The p below which `right` of `total` or more would come with probability < `delta`; elementwise.

    Needs scipy, as all that is fitted does. Raises `ValueError` for counts that cannot be.
    """
    from scipy.stats import beta

    right = np.asarray(right)
    if not ((right >= 0) & (right <= total)).all():
        raise ValueError(f"{right} of {total} cannot be right")
    return np.where(right > 0, beta.ppf(delta, np.maximum(right, 1), total - right + 1), 0.0)[()]


def interval(right: Any, total: int, level: float = 0.95) -> tuple[Any, Any]:
    """Two-sided, covers at least `level`; elementwise."""
    right, half = np.asarray(right), (1 - level) / 2
    return lower_bound(right, total, half), 1 - lower_bound(total - right, total, half)
