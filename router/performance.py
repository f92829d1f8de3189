"""How likely each arm is right, from a query's features: logistic regression or neighbours, then calibrated.

Fitted with scikit-learn and kept as arrays: a prediction is numpy alone. Scores are calibrated on folds that
they were not fitted on, so that training questions suffice; isotonic from 1000 of an arm on, Platt below.
"""

from dataclasses import dataclass

import numpy as np

from engine.chances import interval, log_loss, logit
from engine.projection import Projection
from router.policy import Array

FOLDS, ISOTONIC_FROM, GRID = 5, 1000, 64


@dataclass(frozen=True)
class Logistic:
    """`weights` (A, D + 1), the constant last."""

    weights: Array

    @classmethod
    def fit(cls, z: Array, correct: Array, strength: float) -> "Logistic":
        """Half an observation of each answer at the mean besides: no arm is beyond all doubt."""
        from sklearn.linear_model import LogisticRegression

        weights = []
        for labels in correct.T:
            known = ~np.isnan(labels)
            rows = np.vstack([z[known], np.zeros((2, z.shape[1]))])
            count = np.append(np.ones(known.sum()), [0.5, 0.5])
            model = LogisticRegression(C=strength, solver="newton-cholesky")
            model.fit(rows, np.append(labels[known], [0, 1]), count)
            weights.append(np.append(model.coef_[0], model.intercept_))
        return cls(np.array(weights))

    def __call__(self, z: Array) -> Array:
        """(N, D) -> (N, A)."""
        return 1 / (1 + np.exp(-np.clip(z @ self.weights[:, :-1].T + self.weights[:, -1], -30, 30)))


@dataclass(frozen=True)
class Neighbours:
    """The share of the nearest that were right, drawn to the arm's mean by two neighbours' weight.

    known (M, D), labels (M, A).
    """

    known: Array
    labels: Array
    count: float

    def __call__(self, z: Array) -> Array:
        """(N, D) -> (N, A)."""
        k = min(int(self.count), len(self.known))
        distance = (self.known**2).sum(1) - 2 * z @ self.known.T  # but for |z|², the same for all
        nearest = self.labels[np.argpartition(distance, k - 1, axis=1)[:, :k]]
        found, mean = (~np.isnan(nearest)).sum(1), np.nanmean(self.labels, axis=0)
        return (np.nansum(nearest, axis=1) + 2 * mean) / (found + 2)


# How each kind is fitted, and how strongly it is tried: C of the regression, neighbours.
KINDS = {
    "logistic": (Logistic.fit, (0.001, 0.01, 0.1, 1.0)),
    "knn": (Neighbours, (10.0, 30.0, 100.0)),
}


@dataclass(frozen=True)
class Probabilities:
    """That each arm is right, (N, A), and the 95 % interval of how many with such a score are."""

    p: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Performance:
    """`scorer`: scores of projected features. A calibration is its values on a grid of scores: `grid`, `p`,
    `low`, `high` (A, GRID).
    """

    projection: Projection
    scorer: Logistic | Neighbours
    grid: Array
    p: Array
    low: Array
    high: Array

    @classmethod
    def fit(cls, features: Array, correct: Array, *, kind: str = "logistic", seed: int = 0) -> "Performance":
        """features (N, F), correct (N, A), nan where unknown. `kind`: one of `KINDS`.

        Its strength is the one with the least log loss on folds left out. Raises `ValueError` for too few.
        """
        if len(features) < 2 * FOLDS or np.isnan(correct).all(0).any():
            raise ValueError(f"{len(features)} questions, or an arm without any, are too few to learn from")
        projection = Projection.fit(features)
        z = projection(features)
        fold = np.random.default_rng(seed).permutation(len(z)) % FOLDS
        make, strengths = KINDS[kind]
        losses, scores = [], []
        for strength in strengths:
            tried = np.empty_like(correct)
            for part in range(FOLDS):
                tried[fold == part] = make(z[fold != part], correct[fold != part], strength)(z[fold == part])
            losses.append(log_loss(tried, correct))
            scores.append(tried)
        best = int(np.argmin(losses))
        maps = [_calibrated(*pair) for pair in zip(scores[best].T, correct.T, strict=True)]
        parts = (np.array(part) for part in zip(*maps, strict=True))
        return cls(projection, make(z, correct, strengths[best]), *parts)

    def predict(self, features: Array) -> Probabilities:
        """features (N, F)."""
        scores = self.scorer(self.projection(features)).T

        def mapped(values: Array) -> Array:
            return np.stack([np.interp(*arm) for arm in zip(scores, self.grid, values, strict=True)], axis=1)

        return Probabilities(mapped(self.p), mapped(self.low), mapped(self.high))


def _calibrated(scores: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
    """(grid, p, low, high), each (GRID,): what share of an arm's answers with such a score are right."""
    known = ~np.isnan(labels)
    order = np.argsort(scores[known], kind="stable")
    score, right = scores[known][order], labels[known][order]
    grid = np.quantile(score, np.linspace(0, 1, GRID))
    if len(score) >= ISOTONIC_FROM:
        from sklearn.isotonic import IsotonicRegression

        p = IsotonicRegression(out_of_bounds="clip").fit(score, right).predict(grid)
    else:
        p = Logistic.fit(logit(score)[:, None], right[:, None], 1e3)(logit(grid)[:, None])[:, 0]
    window = int(np.clip(len(score) // 10, min(50, len(score)), 400))
    first = np.clip(np.searchsorted(score, grid) - window // 2, 0, len(score) - window)
    sums = np.append(0, np.cumsum(right))
    low, high = interval(sums[first + window] - sums[first], window)
    return grid, p, np.minimum(low, p), np.maximum(high, p)
