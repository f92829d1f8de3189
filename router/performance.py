"""How likely each arm is right, from a query's features: logistic regression or neighbours, then calibrated.

Fitted with scikit-learn and kept as arrays: a prediction is numpy alone. Scores are calibrated on folds that
they were not fitted on, so that training questions suffice; isotonic from 1000 of an arm on, Platt below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router.certificate import interval
from router.policy import Array

PLAIN, COMPONENTS = 16, 64  # leading features that are kept as they are; dimensions that the others get
FOLDS, ISOTONIC_FROM, GRID = 5, 1000, 64
STRENGTHS = {"logistic": (0.001, 0.01, 0.1, 1.0), "knn": (10.0, 30.0, 100.0)}  # C; neighbours
_FAR = 1.5  # times the distance that all but one in 200 training questions keep


@dataclass(frozen=True)
class Projection:
    """Standardised features; those beyond `PLAIN` by principal components where there are many.

    mean, scale (F,); components (F - PLAIN, COMPONENTS), None where F is small. `reach`: of what is inside.
    """

    mean: Array
    scale: Array
    components: Array | None
    reach: float

    @classmethod
    def fit(cls, features: Array) -> "Projection":
        mean, scale = features.mean(0), features.std(0)
        scale[scale < 1e-9] = 1.0
        z = (features - mean) / scale
        components = None
        if features.shape[1] > PLAIN + COMPONENTS:
            values, vectors = np.linalg.eigh(np.cov(z[:, PLAIN:].T))
            # By the first one's size, not each by its own: so the penalty can drop the small ones, and on
            # GSM8K hashed words hurt where all were scaled to 1.
            components = vectors[:, -COMPONENTS:] / np.sqrt(max(values[-1], 1e-6))
        return cls(mean, scale, components, float(np.quantile(np.linalg.norm(z, axis=1), 0.995)) * _FAR)

    def __call__(self, features: Array) -> Array:
        """(N, F) -> (N, D)."""
        z = (features - self.mean) / self.scale
        if self.components is None:
            return z
        return np.hstack([z[:, :PLAIN], z[:, PLAIN:] @ self.components])

    def outside(self, features: Array) -> Array:
        """(N,) bool: further from the training questions' mean than they are, or not finite."""
        distance = np.linalg.norm((features - self.mean) / self.scale, axis=1)
        return ~(distance <= self.reach)


@dataclass(frozen=True)
class Probabilities:
    """That each arm is right, (N, A), and the 95 % interval of how many with such a score are."""

    p: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Performance:
    """`weights` (A, D + 1) if logistic; else `known` (M, D) and `labels` (M, A), to find neighbours among.

    A calibration is its values on a grid of scores: `grid`, `p`, `low`, `high` (A, GRID).
    """

    projection: Projection
    weights: Array | None
    known: Array | None
    labels: Array | None
    neighbours: float
    grid: Array
    p: Array
    low: Array
    high: Array

    @classmethod
    def fit(cls, features: Array, correct: Array, *, kind: str = "logistic", seed: int = 0) -> "Performance":
        """features (N, F), correct (N, A), nan where unknown. `kind`: "logistic" or "knn".

        Its strength is the one with the least log loss on folds left out. Raises `ValueError` for too few.
        """
        if len(features) < 2 * FOLDS or np.isnan(correct).all(0).any():
            raise ValueError(f"{len(features)} questions, or an arm without any, are too few to learn from")
        projection = Projection.fit(features)
        z = projection(features)
        fold = np.random.default_rng(seed).permutation(len(z)) % FOLDS
        make = _logistic if kind == "logistic" else _neighbours
        best, scores = 0.0, np.empty_like(correct)
        least = np.inf
        for strength in STRENGTHS[kind]:
            tried = np.empty_like(correct)
            for part in range(FOLDS):
                tried[fold == part] = make(z[fold != part], correct[fold != part], strength)(z[fold == part])
            if (loss := log_loss(tried, correct)) < least:
                least, best, scores = loss, strength, tried
        maps = [_calibrated(scores[:, arm], correct[:, arm]) for arm in range(correct.shape[1])]
        weights = _weights(z, correct, best) if kind == "logistic" else None
        known, labels = (None, None) if kind == "logistic" else (z, correct)
        grid, p, low, high = (np.array(part) for part in zip(*maps, strict=True))
        return cls(projection, weights, known, labels, best, grid, p, low, high)

    def predict(self, features: Array) -> Probabilities:
        """features (N, F)."""
        z = self.projection(features)
        if self.weights is not None:
            scores = _sigmoid(z, self.weights)
        else:
            assert self.known is not None and self.labels is not None
            scores = _near(z, self.known, self.labels, self.neighbours)

        def mapped(values: Array) -> Array:
            arms = range(len(values))
            return np.stack([np.interp(scores[:, a], self.grid[a], values[a]) for a in arms], axis=1)

        return Probabilities(mapped(self.p), mapped(self.low), mapped(self.high))

    def outside(self, features: Array) -> Array:
        """(N,) bool: unlike what was calibrated."""
        return self.projection.outside(features)


def log_loss(p: Array, correct: Array) -> float:
    """Mean over what is known, nats."""
    kept = np.clip(p, 1e-6, 1 - 1e-6)
    return -float(np.nanmean(correct * np.log(kept) + (1 - correct) * np.log1p(-kept)))


def logit(p: Array) -> Array:
    """log(p / (1 − p)), finite."""
    kept = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(kept / (1 - kept))


def _sigmoid(z: Array, weights: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(z @ weights[:, :-1].T + weights[:, -1], -30, 30)))


def _fitted(z: Array, labels: Array, strength: float) -> Array:
    """(D + 1,) of one arm. Half an observation of each answer at the mean: no arm is beyond all doubt."""
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(labels)
    rows = np.vstack([z[known], np.zeros((2, z.shape[1]))])
    weight = np.append(np.ones(known.sum()), [0.5, 0.5])
    model = LogisticRegression(C=strength, solver="newton-cholesky").fit(
        rows, np.append(labels[known], [0, 1]), weight
    )
    return np.append(model.coef_[0], model.intercept_)


def _weights(z: Array, correct: Array, strength: float) -> Array:
    return np.stack([_fitted(z, correct[:, arm], strength) for arm in range(correct.shape[1])])


def _logistic(z: Array, correct: Array, strength: float) -> Callable[[Array], Array]:
    weights = _weights(z, correct, strength)
    return lambda asked: _sigmoid(asked, weights)


def _neighbours(z: Array, correct: Array, strength: float) -> Callable[[Array], Array]:
    return lambda asked: _near(asked, z, correct, strength)


def _near(z: Array, known: Array, labels: Array, neighbours: float) -> Array:
    """The share of the nearest that were right, (N, A), drawn to the arm's mean by two neighbours' weight."""
    k = min(int(neighbours), len(known))
    distance = (known**2).sum(1) - 2 * z @ known.T  # but for |z|², the same for all
    nearest = labels[np.argpartition(distance, k - 1, axis=1)[:, :k]]
    count, mean = (~np.isnan(nearest)).sum(1), np.nanmean(labels, axis=0)
    return (np.nansum(nearest, axis=1) + 2 * mean) / (count + 2)


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
        platt = _fitted(logit(score)[:, None], right, 1e3)[None]
        p = _sigmoid(logit(grid)[:, None], platt)[:, 0]
    window = int(np.clip(len(score) // 10, min(50, len(score)), 400))
    first = np.clip(np.searchsorted(score, grid) - window // 2, 0, len(score) - window)
    bounds = np.array([interval(int(right[start : start + window].sum()), window) for start in first])
    return grid, p, np.minimum(bounds[:, 0], p), np.maximum(bounds[:, 1], p)
