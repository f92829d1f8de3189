"""How good probabilities, bounds and choices are on questions that nothing was fitted to."""

import numpy as np

from router.policy import Array


def ece(p: Array, correct: Array, bins: int = 10) -> float:
    """Expected calibration error in bins of equal mass. p, correct (N,), nan where unknown."""
    known = ~(np.isnan(p) | np.isnan(correct))
    order = np.argsort(p[known], kind="stable")
    parts = zip(*(np.array_split(values[known][order], bins) for values in (p, correct)), strict=True)
    return float(sum(abs(a.mean() - b.mean()) * len(a) for a, b in parts if len(a)) / known.sum())


def coverage(bound: Array, actual: Array) -> float:
    """The share of what is known that lies within its bound."""
    known = ~(np.isnan(bound) | np.isnan(actual))
    return float((actual[known] <= bound[known]).mean())
