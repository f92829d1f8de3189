"""What needs no run of its own: fixed and random budgets, permuted stops, oracles, all from the checkpoint
log.

Columns are those of `Grid`: stopped after so many steps, or ended by itself before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calibration.grid import Grid
from bench.calibration.log import Trace
from bench.calibration.replay import Outcome, columns

Columns = NDArray[np.int64]
SHUFFLES = 50


def fixed(grid: Grid, steps: int) -> Outcome:
    """Every run after the same number of steps."""
    return columns(grid, np.full(len(grid.clusters), steps))


def best_fixed(grid: Grid, per_j: float, *, by_category: bool = False) -> Outcome:
    """The budget that is worth most in hindsight, for all questions or for each category its own."""
    worth = grid.utility(per_j)
    chosen = np.full(len(worth), int(np.argmax(worth.mean(axis=0))))
    if by_category:
        for name in np.unique(grid.categories):
            rows = grid.categories == name
            chosen[rows] = int(np.argmax(worth[rows].mean(axis=0)))
    return columns(grid, chosen)


def random_budgets(grid: Grid, seed: int) -> list[Outcome]:
    """Each run after a uniformly random number of steps."""
    rng = np.random.default_rng(seed)
    size = grid.energy_j.shape
    return [columns(grid, np.asarray(rng.integers(size[1], size=size[0]))) for _ in range(SHUFFLES)]


def permuted(grid: Grid, stops: Columns, seed: int, *, within: bool = False) -> list[Outcome]:
    """The same stops dealt out to other questions, of the same category where `within`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SHUFFLES):
        dealt = stops.copy()
        for rows in _parts(grid, within):
            dealt[rows] = stops[rng.permutation(rows)]
        found.append(columns(grid, dealt))
    return found


def averaged(outcomes: Sequence[Outcome]) -> Outcome:
    """What a control is worth on average over its draws; `stops` are those of the first."""
    return Outcome(
        outcomes[0].stops,
        np.mean([outcome.energy_j for outcome in outcomes], axis=0),
        np.mean([outcome.correct for outcome in outcomes], axis=0),
    )


def first_correct(grid: Grid) -> Outcome:
    """The first checkpoint with a right answer, by luck or not; a run without one at its first."""
    return columns(grid, _first(grid.correct > 0))


def first_stably_correct(grid: Grid) -> Outcome:
    """The first checkpoint from which on every answer is right; a run without one at its first."""
    stays = np.flip(np.minimum.accumulate(np.flip(grid.correct, axis=1), axis=1), axis=1)
    return columns(grid, _first(stays > 0))


def best_stop(grid: Grid, per_j: float) -> Outcome:
    """Each run where it was worth most in hindsight: what nobody can beat at this price."""
    return columns(grid, np.argmax(grid.utility(per_j), axis=1))


def stops_of(traces: Sequence[Trace], think_tokens: Sequence[int]) -> Columns:
    """The column of each run's stop by the tokens it had thought: the last checkpoint not behind it."""
    found = []
    for trace, tokens in zip(traces, think_tokens, strict=True):
        passed = sum(entry.think_tokens <= tokens for entry in trace.checkpoints)
        ended = tokens >= trace.end.think_tokens
        found.append(len(trace.checkpoints) if ended else max(passed - 1, 0))
    return np.array(found)


def _first(right: NDArray[np.bool_]) -> Columns:
    return np.asarray(np.argmax(right, axis=1))  # 0 where none is


def _parts(grid: Grid, within: bool) -> list[NDArray[np.int64]]:
    if not within:
        return [np.arange(len(grid.clusters))]
    return [np.flatnonzero(grid.categories == name) for name in np.unique(grid.categories)]
