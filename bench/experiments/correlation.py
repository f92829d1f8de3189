"""Spearman's rank correlation with a permutation test: a handful of architectures allows nothing finer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

_EXACT = 8  # up to so many pairs all n! orders are tried, 40,320
_DRAWS = 20_000
_LEAST_FOR_INTERVAL = 10  # below, the interval's normal approximation means nothing


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """`rho` of `n` pairs; `p`: two-sided, the share of orders with a correlation at least as large.

    `low`, `high`: 95 % interval (Fisher's z with Bonett and Wright's variance), None for fewer than ten
    pairs. `rho` and `p` are None where one side does not vary, or there are fewer than three pairs; `reason`
    then says so.
    """

    n: int
    rho: float | None
    p: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def spearman(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """Of pairs (x, y). Raises `ValueError` for unequal numbers."""
    n = len(x)
    if n != len(y):
        raise ValueError(f"pairs are needed, found {n} and {len(y)} numbers")
    if n < 3:
        return RankCorrelation(n, None, None, reason=f"{n} points have no rank correlation; three are needed")
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:
        return RankCorrelation(n, None, None, reason="one of the two does not vary")
    rho = float(a @ b) / scale
    if n <= _EXACT:
        orders = np.array(list(permutations(range(n))))
    else:
        draw = np.random.default_rng(seed)
        orders = np.stack([draw.permutation(n) for _ in range(_DRAWS)])
    found = np.abs(a[orders] @ b) / scale >= abs(rho) - 1e-12
    # of drawn orders the one found counts as well, so that p is never 0
    p = float(found.mean()) if n <= _EXACT else (int(found.sum()) + 1) / (_DRAWS + 1)
    if n < _LEAST_FOR_INTERVAL or abs(rho) >= 1:
        reason = f"an interval needs {_LEAST_FOR_INTERVAL} points and |ρ| < 1"
        return RankCorrelation(n, rho, p, reason=reason)
    half = 1.96 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    z = math.atanh(rho)
    return RankCorrelation(n, rho, p, math.tanh(z - half), math.tanh(z + half))


def _centred_ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks less their mean; equal values share the mean of their ranks."""
    data = np.asarray(values, dtype=float)
    _, place, count = np.unique(data, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks = (last - (count - 1) / 2)[place]
    return ranks - ranks.mean()
