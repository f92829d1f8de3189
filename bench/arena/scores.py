"""How an arm did: against full thinking, against fixed budgets at equal joules, and on the way to the oracle.

Every interval is 95 %, of a paired bootstrap over questions in which hull, best budget and oracle are taken
anew from the drawn questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.arena.controls import first_stably_correct
from bench.calibration.bootstrap import DRAWS, interval, resamples
from bench.calibration.grid import Array, Grid
from bench.calibration.hull import hull
from bench.calibration.replay import Outcome
from engine.stop.rule import POINTS

_LEAST_GAP = 1e-9  # below it is rounding: where the first budget is always right there is nothing to close


@dataclass(frozen=True, slots=True)
class Estimate:
    """With its interval. NaN where it has no meaning: joules below the cheapest budget, no gap to close."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, drawn: Array) -> "Estimate":
        """From its value on all questions and, behind it, on each draw."""
        known = drawn[1:][~np.isnan(drawn[1:])]
        return cls(float(drawn[0]), *(interval(known) if len(known) else (float("nan"),) * 2))


@dataclass(frozen=True, slots=True)
class Score:
    """`saved`: share of full thinking's joules. `gained`: accuracy against full thinking.

    `at_equal_joules`: accuracy above the hull of fixed step budgets at the arm's own mean joules;
    `at_equal_accuracy`: share of joules saved against the hull at the arm's accuracy. `closed`: share of the
    way in utility, at the price asked for, from the best fixed budget to the first stably correct answer.
    """

    accuracy: float
    energy_j: float
    saved: Estimate
    gained: Estimate
    at_equal_joules: Estimate
    at_equal_accuracy: Estimate
    closed: Estimate


class Reference:
    """What arms are held against on the questions of `grid`, all of them and drawn. `price`: points per
    joule.
    """

    def __init__(self, grid: Grid, price: float, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.price = price
        self._weights = np.zeros((draws + 1, len(grid.clusters)))
        self._weights[0] = 1.0
        for draw, rows in enumerate(resamples(grid.clusters, draws=draws, seed=seed), 1):
            self._weights[draw] = np.bincount(rows, minlength=len(grid.clusters))
        self._weights /= self._weights.sum(axis=1, keepdims=True)
        joules, right = self._weights @ grid.energy_j, self._weights @ grid.correct
        self._full_j, self._full = joules[:, -1], right[:, -1]
        self._hulls = [hull(*point) for point in zip(joules, right, strict=True)]
        self._fixed = (right - price / POINTS * joules).max(axis=1)
        self._oracle = self._weights @ first_stably_correct(grid).utility(price)

    def score(self, outcome: Outcome) -> Score:
        """Of an arm, on the same questions in the same order."""
        joules, right = self._weights @ outcome.energy_j, self._weights @ outcome.correct
        pairs = list(zip(self._hulls, joules, right, strict=True))
        above = np.array([y - corners.accuracy_at(e) for corners, e, y in pairs])
        cheaper = np.array([1 - e / corners.energy_at(y) for corners, e, y in pairs])
        gap = self._oracle - self._fixed
        way = right - self.price / POINTS * joules - self._fixed
        there = gap > _LEAST_GAP
        closed = np.where(there, way / np.where(there, gap, 1.0), np.nan)
        return Score(
            accuracy=float(right[0]),
            energy_j=float(joules[0]),
            saved=Estimate.of(1 - joules / self._full_j),
            gained=Estimate.of(right - self._full),
            at_equal_joules=Estimate.of(above),
            at_equal_accuracy=Estimate.of(cheaper),
            closed=Estimate.of(closed),
        )

    def above(self, outcome: Outcome, budgets: Sequence[Outcome]) -> Estimate:
        """Accuracy above the hull of other arms at the arm's own mean joules, paired by question."""
        joules, right = self._weights @ outcome.energy_j, self._weights @ outcome.correct
        points = [(self._weights @ one.energy_j, self._weights @ one.correct) for one in budgets]
        hulls = [
            hull([e[draw] for e, _ in points], [y[draw] for _, y in points]) for draw in range(len(right))
        ]
        return Estimate.of(
            np.array([y - found.accuracy_at(e) for found, e, y in zip(hulls, joules, right, strict=True)])
        )

    def beats(self, outcome: Outcome, other: Outcome) -> Estimate:
        """By how much more utility an arm has than another, in accuracy, paired by question."""
        return Estimate.of(self._weights @ (outcome.utility(self.price) - other.utility(self.price)))
