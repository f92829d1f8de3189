"""What ways of answering will take for a query, joules or seconds: how long they write × what that costs.

Lengths are a regression on the query's features. Costs have the form of an operating curve, a + b·n + c·m +
d·(n·m + m²/2) of n prompt and m new tokens, fitted to what requests took, or are an engine's own curve. The
spread is that of the ratio actual / predicted: by split conformal prediction nine cases of ten lie below the
`q90`, whatever their distribution; finished requests go on teaching it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.energy.curve import request_features
from engine.energy.nnls import nnls
from engine.predict.features import Array
from engine.predict.projection import Projection

if TYPE_CHECKING:
    from engine.energy.curve import OperatingCurve

RECENT = 1000  # ratios of an arm that are kept: new ones take the place of the oldest
_RIDGE = 10.0

Cost = Callable[[float, float], float]  # of (prompt tokens, new tokens)


def by_curve(curve: "OperatingCurve", rows: int) -> Cost:
    """J of one prefill and `rows` decodes from it, which write m new tokens together, each as many."""
    expected = curve.energy.expected  # without its band, which nobody asks for here
    return lambda n, m: expected(request_features([max(round(n), 1)], max(round(m / rows), 1), rows))


@dataclass(frozen=True)
class Costs:
    """(N, A ways of answering, called arms); nan for one of which nothing is known."""

    expected: Array
    median: Array
    q90: Array


@dataclass(frozen=True)
class CostEstimator:
    """`lengths` (2, A, D + 1): of log tokens, prompt and new. `terms` (A, 4). `ratios` (A, R), oldest first.

    `spread` (3, A): of the ratios, their mean, median and conformal nine tenths.
    """

    projection: Projection
    lengths: Array
    terms: Array
    ratios: Array
    spread: Array

    @classmethod
    def fit(cls, features: Array, prompt_tokens: Array, new_tokens: Array, cost: Array) -> "CostEstimator":
        """features (N, F); the others (N, A), nan where unknown, as 0 tokens are. Optimistic until
        `calibrated`.
        """
        projection = Projection.fit(features)
        z = projection(features)
        prompt_tokens, new_tokens = (np.where(n > 0, n, np.nan) for n in (prompt_tokens, new_tokens))
        tokens = np.log([prompt_tokens, new_tokens])
        lengths = np.array([[_ridge(z, of_arm) for of_arm in of_kind.T] for of_kind in tokens])
        terms = np.array([_terms(*arm) for arm in zip(prompt_tokens.T, new_tokens.T, cost.T, strict=True)])
        blank = np.full((len(terms), RECENT), np.nan)
        return cls(projection, lengths, terms, blank, np.empty((3, 0))).calibrated(features, cost)

    def calibrated(self, features: Array, cost: Array) -> "CostEstimator":
        """With the spread of questions that it was not fitted to. cost (N, A).

        Of more than `RECENT`, so many from first to last: files of outcomes stand in the order of categories,
        and the last ones alone covered 81 % on the test bed where nine tenths were told.
        """
        kept = np.full((cost.shape[1], RECENT), np.nan)
        for arm, ratios in enumerate((cost / self.point(features, {})).T):
            found = ratios[np.isfinite(ratios)]
            if len(found) > RECENT:
                found = found[np.linspace(0, len(found) - 1, RECENT).round().astype(int)]
            kept[arm, RECENT - len(found) :] = found
        return replace(self, ratios=kept, spread=np.stack([_spread(ratios) for ratios in kept], axis=1))

    def observed(self, arm: int, predicted: float, actual: float) -> "CostEstimator":
        """A request of `arm`, `predicted` as its `expected`, took `actual`."""
        if not (predicted > 0 and actual > 0 and math.isfinite(actual)):
            return self
        ratios, spread = self.ratios.copy(), self.spread.copy()
        ratios[arm] = np.append(ratios[arm, 1:], actual / predicted * spread[0, arm])
        spread[:, arm] = _spread(ratios[arm])
        return replace(self, ratios=ratios, spread=spread)

    def predict(self, features: Array, curves: Mapping[int, Cost] | None = None) -> Costs:
        """`curves`: what costs on the device at hand, by arm, in place of the fitted terms."""
        point = self.point(features, curves or {})
        return Costs(*(point * part for part in self.spread))

    def point(self, features: Array, curves: Mapping[int, Cost]) -> Array:
        """(N, A): before the spread."""
        z = self.projection(features)
        logs = z @ self.lengths[..., :-1].swapaxes(1, 2) + self.lengths[:, None, :, -1]
        # A query far from all others must not be told to take forever: no longer than e^14 tokens.
        n, m = np.exp(np.clip(logs, 0, 14))
        cost: Array = (_design(n, m) * self.terms).sum(-1)
        for arm, curve in curves.items():
            cost[:, arm] = [curve(*pair) for pair in zip(n[:, arm], m[:, arm], strict=True)]
        return cost


def _spread(ratios: Array) -> tuple[float, float, float]:
    found = np.sort(ratios[np.isfinite(ratios)])
    if not len(found):
        return math.nan, math.nan, math.nan
    rank = min(math.ceil(0.9 * (len(found) + 1)), len(found))
    return float(found.mean()), float(np.median(found)), float(found[rank - 1])


def _design(n: Array, m: Array) -> Array:
    """(…, 4)."""
    return np.stack([np.ones_like(n), n, m, n * m + m**2 / 2], axis=-1)


def _ridge(z: Array, values: Array) -> Array:
    """(D + 1,), the constant last and not drawn to 0; nan where nothing is known."""
    from sklearn.linear_model import Ridge

    known = np.isfinite(values)
    if not known.any():
        return np.full(z.shape[1] + 1, np.nan)
    model = Ridge(alpha=_RIDGE).fit(z[known], values[known])
    return np.append(model.coef_, model.intercept_)


def _terms(n: Array, m: Array, cost: Array) -> Array:
    """(4,), none negative, by relative error; nan where nothing is known."""
    known = np.isfinite(n) & np.isfinite(m) & (cost > 0)
    if not known.any():
        return np.full(4, np.nan)
    return nnls(_design(n[known], m[known]) / cost[known][:, None], np.ones(known.sum()))
