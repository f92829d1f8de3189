"""From runs to a category's rule: which signals to look at, and what each state was worth.

Few runs pass through a rare state, so its figures are drawn towards those of the same cell at the checkpoints
around, by the weight of `NEAR` runs, and towards those of its whole checkpoint, by that of `PRIOR`. On the
noisy checker of `bench.testbed.optimal_stop`, 500 runs, `NEAR` 0, 4, 8, 20, 50 lose at most 1.49, 0.98, 0.94,
2.15 and 2.27 % of the optimum's value over five draws and four prices. Which signals are looked at is chosen
by what rules are worth on questions that they were not fitted to, over prices from where only direct answers
pay to where everything does.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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

PRIOR, NEAR = 1.0, 8.0  # runs
_REACH = 4
_TOLERANCE = 0.25  # of 1 and 0.5 the search of the test bed, 500 runs, lost 1.2 points of utility
FOLDS = 5
PRICES = 6  # between the steepest and the flattest slope of the hull
_LONGEST_STABILITY = 6
_MOST_BINS = 10
_LIKELY_BINS = 6
_CHOICES: tuple[tuple[str, ...], ...] = (
    (),
    ("stability",),
    ("size",),
    ("stability", "size"),
    ("distinct", "size"),
    ("stability", "distinct"),
    ("stability", "distinct", "size"),
)
_SCORED: tuple[tuple[str, ...], ...] = (
    ("surprisal",),
    ("worst",),
    ("stability", "surprisal"),
    ("size", "surprisal"),
    ("size", "worst"),
    ("surprisal", "worst"),
    ("stability", "surprisal", "worst"),
    ("size", "surprisal", "worst"),
)  # only where a log tells how likely the tokens were


@dataclass(slots=True)
class Tally:
    """Sums over visits of one state: `ended` of them before another checkpoint, the rest `onward` by cell."""

    runs: float = 0.0
    correct: float = 0.0
    answer_j: float = 0.0
    ended: float = 0.0
    closing_correct: float = 0.0
    closing_j: float = 0.0
    onward_j: float = 0.0
    onward: Counter[Cell] = field(default_factory=Counter)

    def visit(self, entry: Entry, after: Entry, cell: Cell | None, *, probed: bool) -> None:
        """A run passed: from `entry` to `after`, in `cell`, or None for the end of its thinking."""
        way_j = after.energy_j - entry.energy_j
        self.runs += 1
        self.correct += entry.correct
        self.answer_j += entry.answer_j
        if cell is None:
            self.ended += 1
            self.closing_correct += after.correct
            self.closing_j += way_j + after.answer_j
        else:
            self.onward_j += way_j + probed * after.probe_j
            self.onward[cell] += 1  # type: ignore[assignment]

    def plus(self, other: "Tally", weight: float) -> None:
        """Add another's sums, each worth `weight`."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + weight * getattr(other, name))
        for cell, count in other.onward.items():
            self.onward[cell] += weight * count  # type: ignore[assignment]

    def state(self, checkpoint: int, cell: Cell, runs: int) -> State:
        """The means."""
        went_on = self.runs - self.ended
        total = sum(self.onward.values())
        return State(
            checkpoint=checkpoint,
            cell=cell,
            runs=runs,
            correct=min(self.correct / self.runs, 1.0),
            answer_j=self.answer_j / self.runs,
            closes=min(self.ended / self.runs, 1.0),
            closing_correct=min(self.closing_correct / self.ended, 1.0) if self.ended else 0.0,
            closing_j=self.closing_j / self.ended if self.ended else 0.0,
            onward_j=self.onward_j / went_on if self.onward else 0.0,
            onward=tuple((to, count / total) for to, count in sorted(self.onward.items())),
        )


_SUMS = ("runs", "correct", "answer_j", "ended", "closing_correct", "closing_j", "onward_j")


def fit_category(traces: Sequence[Trace], axes: Axes, near: float = NEAR) -> CategoryRule:
    """The states that these runs passed. Raises `ValueError` where none has a checkpoint."""
    tallies = tally(traces, axes)
    if not tallies:
        raise ValueError("none of these runs has a checkpoint")
    coarse: dict[int, Tally] = {}
    for (number, _), found in tallies.items():
        coarse.setdefault(number, Tally()).plus(found, 1.0)
    states = [found.state(number, ANY, round(found.runs)) for number, found in sorted(coarse.items())]
    for (number, cell), found in sorted(tallies.items()):
        if cell == ANY:
            continue
        smoothed, around = Tally(), _around(tallies, number, cell)
        smoothed.plus(found, 1.0)
        if around.runs and near:
            smoothed.plus(around, near / around.runs)
        smoothed.plus(coarse[number], PRIOR / coarse[number].runs)
        states.append(smoothed.state(number, cell, round(found.runs)))
    return CategoryRule(axes, tuple(states))


def tally(traces: Sequence[Trace], axes: Axes) -> dict[tuple[int, Cell], Tally]:
    """What these runs show of each checkpoint and cell."""
    found: defaultdict[tuple[int, Cell], Tally] = defaultdict(Tally)
    for trace in traces:
        passed: list[tuple[Entry, Cell | None]] = [
            *zip(trace.checkpoints, trace.cells(axes), strict=True),
            (trace.end, None),
        ]
        for number, ((entry, cell), (after, onward)) in enumerate(pairwise(passed)):
            assert cell is not None
            found[number, cell].visit(entry, after, onward, probed=bool(axes.confidence))
    return dict(found)


def _around(tallies: Mapping[tuple[int, Cell], Tally], number: int, cell: Cell) -> Tally:
    """The same cell at the checkpoints around, each step away worth half."""
    found = Tally()
    for away in range(1, _REACH + 1):
        for other in (number - away, number + away):
            if (other, cell) in tallies:
                found.plus(tallies[other, cell], 0.5**away)
    return found


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
    choices = _CHOICES
    entries = [entry for trace in traces for entry in trace.checkpoints]
    if all(entry.surprisal is not None for entry in entries):
        choices += _SCORED
        right = np.array([entry.correct for entry in entries], float)
        seen = [at for trace in traces for at in trace.seen]
        for name in ("surprisal", "worst"):
            likely = -np.array([getattr(at, name) for at in seen])  # g rises with it
            edges = confidences.cuts(likely, right, bins=_LIKELY_BINS)
            # An edge belongs to the likely side, and a cut to the bin above it.
            cuts[name] = tuple(math.nextafter(-edge, math.inf) for edge in reversed(edges))
    found = [Axes(**{name: cuts[name] for name in choice}) for choice in sorted(choices, key=len)]
    if probes:
        read = [entry for entry in entries if entry.confidence is not None]
        confidence = np.array([entry.confidence for entry in read], float)
        by_g = confidences.cuts(confidence, np.array([entry.correct for entry in read], float), bins=5)
        found = [replace(axes, confidence=by_g) for axes in found]
    return list(dict.fromkeys(found))


def choose_axes(traces: Sequence[Trace], among: Sequence[Axes]) -> Axes:
    """The fewest signals whose rules are worth as much as the best's on held-out questions.

    As much: within `_TOLERANCE` standard errors of the difference, run by run.
    """
    grid = Grid.of(traces)
    at = prices(grid)
    means = []
    for axes in among:
        mean = np.zeros(len(traces))
        for training, held_out in folds(grid.clusters, FOLDS):
            rule = fit_category(_picked(traces, training), axes)
            unseen = _picked(traces, held_out)
            mean[held_out] = np.mean([worth(unseen, rule, price) for price in at], axis=0)
        means.append(mean)
    best = means[int(np.argmax([mean.mean() for mean in means]))]
    for axes, mean in zip(among, means, strict=True):
        behind = best - mean
        if behind.mean() <= _TOLERANCE * behind.std() / np.sqrt(len(behind)):
            return axes
    raise AssertionError("the best is as good as itself")


def _picked(traces: Sequence[Trace], rows: NDArray[np.int64]) -> list[Trace]:
    return [traces[row] for row in rows]


def _quantile_cuts(values: Sequence[float]) -> tuple[float, ...]:
    """Cuts between values that occur: at most `_MOST_BINS` bins with about equally many values each."""
    distinct = sorted(set(values))
    if len(distinct) > _MOST_BINS:
        wanted = np.quantile(values, np.arange(1, _MOST_BINS) / _MOST_BINS, method="inverted_cdf")
        distinct = [distinct[0], *sorted(set(map(float, wanted)) - {distinct[0]})]
    return tuple(distinct[1:])
