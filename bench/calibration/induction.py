"""From runs to a category's rule: which signals to look at, and what each state was worth.

Few runs pass through a rare state, so its figures are drawn towards those of its whole checkpoint, by the
weight of `PRIOR` runs. Which signals are looked at is chosen by what rules are worth on questions that they
were not fitted to, over prices from where only direct answers pay to where everything does.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bench.calibration import confidence as confidences
from bench.calibration.bootstrap import folds
from bench.calibration.grid import Array, Grid
from bench.calibration.hull import hull
from bench.calibration.log import Entry, Trace
from bench.calibration.replay import worth
from engine.stop.rule import ANY, POINTS, Axes, CategoryRule, Cell, State

PRIOR = 2.0  # runs
FOLDS = 5
PRICES = 6  # between the steepest and the flattest slope of the hull
_LONGEST_STABILITY = 6
_MOST_BINS = 10
_CHOICES = (
    (),
    ("stability",),
    ("size",),
    ("stability", "size"),
    ("distinct", "size"),
    ("stability", "distinct"),
    ("stability", "distinct", "size"),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A run at one checkpoint. `onward` None: its thinking ended before another one came."""

    entry: Entry
    cell: Cell
    onward: Cell | None
    after: Entry


def fit_category(traces: Sequence[Trace], axes: Axes, *, prior: float = PRIOR) -> CategoryRule:
    """The states that these runs passed. Raises `ValueError` where none has a checkpoint."""
    visits: defaultdict[int, list[Visit]] = defaultdict(list)
    for trace in traces:
        passed = [*zip(trace.checkpoints, trace.cells(axes), strict=True), (trace.end, None)]
        for (entry, cell), (after, onward) in pairwise(passed):
            assert cell is not None
            visits[entry.checkpoint].append(Visit(entry, cell, onward, after))
    if not visits:
        raise ValueError("none of these runs has a checkpoint")
    states = []
    for number in range(len(visits)):
        coarse = _state(number, ANY, visits[number], None, prior, probed=bool(axes.confidence))
        states.append(coarse)
        by_cell: defaultdict[Cell, list[Visit]] = defaultdict(list)
        for visit in visits[number]:
            by_cell[visit.cell].append(visit)
        for cell, members in sorted(by_cell.items()):
            if cell != ANY:
                states.append(_state(number, cell, members, coarse, prior, probed=bool(axes.confidence)))
    return CategoryRule(axes, tuple(states))


def _state(
    number: int, cell: Cell, visits: Sequence[Visit], coarse: State | None, prior: float, *, probed: bool
) -> State:
    """Means over visits, drawn towards the coarse state's."""

    def mean(values: Iterable[float], towards: str) -> float:
        found = list(values)
        if coarse is None:
            return float(np.mean(found)) if found else 0.0
        return (sum(found) + prior * getattr(coarse, towards)) / (len(found) + prior)

    ended = [visit for visit in visits if visit.onward is None]
    went_on = [visit for visit in visits if visit.onward is not None]
    counts: defaultdict[Cell, int] = defaultdict(int)
    for visit in went_on:
        assert visit.onward is not None
        counts[visit.onward] += 1
    onward = tuple((to, count / len(went_on)) for to, count in sorted(counts.items()))
    return State(
        checkpoint=number,
        cell=cell,
        runs=len(visits),
        correct=mean((v.entry.correct for v in visits), "correct"),
        answer_j=mean((v.entry.answer_j for v in visits), "answer_j"),
        closes=mean((v.onward is None for v in visits), "closes"),
        closing_correct=mean((v.after.correct for v in ended), "closing_correct"),
        closing_j=mean((v.after.energy_j + v.after.answer_j - v.entry.energy_j for v in ended), "closing_j"),
        onward_j=mean(
            (v.after.energy_j - v.entry.energy_j + probed * v.after.probe_j for v in went_on), "onward_j"
        ),
        onward=onward or (coarse.onward if coarse is not None else ()),
    )


def prices(grid: Grid, count: int = PRICES) -> Array:
    """Accuracy points per joule (count,), evenly in their logarithm: the slopes of the budgets' hull, and 3×
    around.
    """
    corners = hull(grid.energy_j.mean(axis=0), grid.correct.mean(axis=0))
    slopes = np.diff(corners.accuracy) / np.diff(corners.energy_j)
    if not len(slopes):
        slopes = np.array([1 / max(float(np.ptp(grid.energy_j.mean(axis=0))), 1e-9)])
    return np.geomspace(slopes.min() / 3, slopes.max() * 3, count) * POINTS


def candidates(traces: Sequence[Trace], *, probes: bool = False) -> list[Axes]:
    """Axes to choose from; with `probes` each also cut by confidence."""
    sizes = _quantile_cuts([float(trace.end.prompt_tokens) for trace in traces])
    distinct = _quantile_cuts([float(at.distinct) for trace in traces for at in trace.seen])
    stability = tuple(float(length) for length in range(2, _LONGEST_STABILITY + 1))
    cuts = {"stability": stability, "distinct": distinct, "size": sizes}
    found = [Axes(**{name: cuts[name] for name in choice}) for choice in _CHOICES]
    if probes:
        read = [entry for trace in traces for entry in trace.checkpoints if entry.confidence is not None]
        confidence = np.array([entry.confidence for entry in read], float)
        by_g = confidences.cuts(confidence, np.array([entry.correct for entry in read], float), bins=5)
        found = [Axes(a.stability, a.distinct, a.size, by_g) for a in found]
    return list(dict.fromkeys(found))


def choose_axes(traces: Sequence[Trace], among: Sequence[Axes]) -> Axes:
    """The axes whose rules are worth most on held-out questions; the first of several."""
    grid = Grid.of(traces)
    at = prices(grid)
    means = []
    for axes in among:
        total = 0.0
        for training, held_out in folds(grid.clusters, FOLDS):
            rule = fit_category(_picked(traces, training), axes)
            total += sum(float(worth(_picked(traces, held_out), rule, price).sum()) for price in at)
        means.append(total)
    return among[int(np.argmax(means))]


def _picked(traces: Sequence[Trace], rows: NDArray[np.int64]) -> list[Trace]:
    return [traces[row] for row in rows]


def _quantile_cuts(values: Sequence[float]) -> tuple[float, ...]:
    """Cuts between values that occur: at most `_MOST_BINS` bins with about equally many values each."""
    distinct = sorted(set(values))
    if len(distinct) > _MOST_BINS:
        wanted = np.quantile(values, np.arange(1, _MOST_BINS) / _MOST_BINS, method="inverted_cdf")
        distinct = [distinct[0], *sorted(set(map(float, wanted)) - {distinct[0]})]
    return tuple(distinct[1:])
