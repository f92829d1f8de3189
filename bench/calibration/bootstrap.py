"""The cluster bootstrap: questions are drawn again, with all their runs, and everything is fitted anew."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.calibration.grid import Array, Grid

Rows = NDArray[np.int64]
DRAWS = 1000


def resamples(clusters: NDArray[np.int64], *, draws: int, seed: int) -> list[Rows]:
    """`draws` times as many questions as there are, with replacement: the rows of each draw."""
    rng = np.random.default_rng(seed)
    names, inverse = np.unique(clusters, return_inverse=True)
    members = [np.flatnonzero(inverse == i) for i in range(len(names))]
    return [
        np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))]) for _ in range(draws)
    ]


def interval(values: Array, coverage: float = 0.95) -> tuple[float, float]:
    """Percentiles that hold the middle `coverage` of the values."""
    tail = (1 - coverage) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(
    differences: Array,
    clusters: NDArray[np.int64],
    *,
    coverage: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean of differences (n,) between two arms on the same questions."""
    _, inverse = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(inverse, weights=differences), np.bincount(inverse)
    picked = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    return interval(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1), coverage)


def best_budget(grid: Grid, per_j: float) -> int:
    """The number of steps that is worth most on average at a price."""
    return int(np.argmax(grid.utility(per_j).mean(axis=0)))


def budget_intervals(
    grid: Grid, per_j: float, *, draws: int = DRAWS, seed: int = 0
) -> tuple[tuple[float, float], float, tuple[float, float]]:
    """(interval of E* in J, mean held-out regret, its interval), the regret in accuracy.

    Each draw chooses its budget; the questions that it left out tell what was lost by choosing so.
    """
    chosen, regrets = [], []
    everything = np.arange(len(grid.clusters))
    for rows in resamples(grid.clusters, draws=draws, seed=seed):
        budget = best_budget(grid.part(rows), per_j)
        chosen.append(float(grid.energy_j[rows, budget].mean()))
        unseen = np.setdiff1d(everything, rows)
        if len(unseen):
            worth = grid.utility(per_j)[unseen].mean(axis=0)
            regrets.append(float(worth.max() - worth[budget]))
    found = np.array(regrets or [np.nan])
    return interval(np.array(chosen)), float(found.mean()), interval(found)


def cheapest_within(grid: Grid, loss: float = 0.01, *, draws: int = DRAWS, seed: int = 0) -> int | None:
    """The price-free choice: fewest joules whose accuracy is, with 97.5 % certainty, within `loss` of the
    best.

    The best is chosen anew in each draw, so that its luck is in the bound. None where no budget is certain.
    """
    means = np.array(
        [grid.correct[rows].mean(axis=0) for rows in resamples(grid.clusters, draws=draws, seed=seed)]
    )
    behind = means - means.max(axis=1, keepdims=True)
    certain = np.flatnonzero(np.quantile(behind, 0.025, axis=0) > -loss)
    if not len(certain):
        return None
    return int(certain[np.argmin(grid.energy_j.mean(axis=0)[certain])])


def folds(clusters: NDArray[np.int64], count: int, *, seed: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """(training rows, held-out rows) for each of `count` parts of the questions."""
    names, inverse = np.unique(clusters, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    own = (order % count)[inverse]
    for fold in range(min(count, len(names))):
        yield np.flatnonzero(own != fold), np.flatnonzero(own == fold)
