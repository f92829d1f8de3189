"""How an arm did: against full thinking, against fixed budgets at equal joules, and on the way to the oracle.

Every interval is 95 %, of a paired bootstrap over questions in which hull, best budget and oracle are taken
anew from the drawn questions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.arena.controls import best_fixed, first_stably_correct
from bench.calibration.bootstrap import interval, resamples
from bench.calibration.grid import Grid
from bench.calibration.hull import hull
from bench.calibration.replay import Outcome
from engine.stop.rule import POINTS

DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """With its interval. NaN where it has no meaning: joules below the cheapest budget, no gap to close."""

    value: float
    low: float
    high: float


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


def score(grid: Grid, outcome: Outcome, price: float, *, draws: int = DRAWS, seed: int = 0) -> Score:
    """An arm on the questions of `grid`, in their order. `price`: accuracy points per joule."""
    per_j = price / POINTS
    oracle = first_stably_correct(grid).utility(price)
    samples = resamples(grid.clusters, draws=draws, seed=seed)
    everything = np.arange(len(grid.clusters))

    def estimate(of: Callable[[np.ndarray], float]) -> Estimate:
        drawn = np.array([of(rows) for rows in samples])
        known = drawn[~np.isnan(drawn)]
        ends = interval(known) if len(known) else (float("nan"), float("nan"))
        return Estimate(of(everything), *ends)

    def saved(rows: np.ndarray) -> float:
        return float(1 - outcome.energy_j[rows].mean() / grid.energy_j[rows, -1].mean())

    def gained(rows: np.ndarray) -> float:
        return float((outcome.correct[rows] - grid.correct[rows, -1]).mean())

    def above_hull(rows: np.ndarray) -> float:
        corners = hull(grid.energy_j[rows].mean(axis=0), grid.correct[rows].mean(axis=0))
        at_j = float(outcome.energy_j[rows].mean())
        return float(outcome.correct[rows].mean()) - corners.accuracy_at(at_j)

    def cheaper(rows: np.ndarray) -> float:
        corners = hull(grid.energy_j[rows].mean(axis=0), grid.correct[rows].mean(axis=0))
        fixed_j = corners.energy_at(float(outcome.correct[rows].mean()))
        return 1 - float(outcome.energy_j[rows].mean()) / fixed_j

    def closed(rows: np.ndarray) -> float:
        part = grid.part(rows)
        fixed = best_fixed(part, per_j).utility(price).mean()
        gap = oracle[rows].mean() - fixed
        return float((outcome.utility(price)[rows].mean() - fixed) / gap) if gap > 0 else float("nan")

    return Score(
        accuracy=float(outcome.correct.mean()),
        energy_j=float(outcome.energy_j.mean()),
        saved=estimate(saved),
        gained=estimate(gained),
        at_equal_joules=estimate(above_hull),
        at_equal_accuracy=estimate(cheaper),
        closed=estimate(closed),
    )


def beats(grid: Grid, outcome: Outcome, other: Outcome, price: float, *, seed: int = 0) -> Estimate:
    """By how much more utility an arm has than another, in accuracy, paired by question."""
    difference = outcome.utility(price) - other.utility(price)
    drawn = [difference[rows].mean() for rows in resamples(grid.clusters, draws=DRAWS, seed=seed)]
    return Estimate(float(difference.mean()), *interval(np.array(drawn)))
