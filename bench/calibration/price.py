"""The price that a rule gets where nobody names one: the highest at which hardly any accuracy is lost."""

from collections.abc import Mapping, Sequence

import numpy as np

from bench.calibration.bootstrap import folds, paired_interval
from bench.calibration.grid import Grid
from bench.calibration.induction import fit_category, prices
from bench.calibration.log import Trace
from bench.calibration.replay import Outcome, replay
from engine.stop.rule import Axes

_TRIED = 50
ALLOWED_LOSS = 0.01
# A price that only just keeps a point at 95 % fails on every other fresh sample of the same size.
_COVERAGE = 0.99


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
