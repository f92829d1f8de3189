"""Prices from what a user rather has: a mean of joules to spend, or an accuracy that must not be lost."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bench.calibration.bootstrap import folds, paired_interval
from bench.calibration.grid import Grid
from bench.calibration.induction import fit_category, prices
from bench.calibration.log import Trace
from bench.calibration.replay import Outcome, replay
from engine.stop.rule import Axes

_DOUBLINGS = 60
_TRIED = 50
ALLOWED_LOSS = 0.01
# A price that only just keeps a point at 95 % fails on every other fresh sample of the same size.
_COVERAGE = 0.99


def price_of_budget(mean_j: Callable[[float], float], budget_j: float, *, start: float = 1.0) -> float:
    """The least price whose mean joules are at most `budget_j`, by bisection to a thousandth.

    `mean_j`: what a price costs, falling in it. Raises `ValueError` where no price is cheap enough.
    """
    if mean_j(0.0) <= budget_j:
        return 0.0
    high = start
    for _ in range(_DOUBLINGS):
        if mean_j(high) <= budget_j:
            break
        high *= 2
    else:
        raise ValueError(
            f"no price brings the mean down to {budget_j:g} J: answering at once costs {mean_j(high):g} J"
        )
    low = 0.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if mean_j(middle) <= budget_j:
            high = middle
        else:
            low = middle
    return high


def held_out(
    traces: Sequence[Trace], axes: Mapping[str, Axes], at: Sequence[float], *, count: int = 5
) -> list[Outcome]:
    """At each price in points per joule: each run under a rule that was fitted without its question."""
    everything = Grid.of(traces)
    found = [Outcome(np.zeros(len(traces), int), np.zeros(len(traces)), np.zeros(len(traces))) for _ in at]
    for category in axes:
        rows = np.flatnonzero(everything.categories == category)
        for training, unseen in folds(everything.clusters[rows], count):
            rule = fit_category([traces[row] for row in rows[training]], axes[category])
            where = rows[unseen]
            for price, outcome in zip(at, found, strict=True):
                part = replay([traces[row] for row in where], rule, price)
                outcome.stops[where], outcome.energy_j[where] = part.stops, part.energy_j
                outcome.correct[where] = part.correct
    return found


def default_price(traces: Sequence[Trace], axes: Mapping[str, Axes], *, loss: float = ALLOWED_LOSS) -> float:
    """The highest price up to which held-out accuracy is, by its 99 % interval, at most `loss` under full
    thinking, at it and at every lower price tried.

    0 where not even the lowest price is certain of that: then only what thinking gains counts.
    """
    grid = Grid.of(traces)
    full = grid.correct[:, -1]
    tried = [float(price) for price in prices(grid, _TRIED)]
    found = 0.0
    for price, outcome in zip(tried, held_out(traces, axes, tried), strict=True):
        if paired_interval(outcome.correct - full, grid.clusters, coverage=_COVERAGE)[0] < -loss:
            break
        found = price
    return found
