"""What a rule, a budget or another choice of checkpoints makes of logged runs; nothing is run again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.calibration.grid import Array, Grid
from bench.calibration.log import Trace
from engine.stop.rule import POINTS, CategoryRule, Decisions, StoppingRule, decisions, look_up


@dataclass(frozen=True)
class Outcome:
    """Of n runs: the column of `Grid` where each stopped (n,), its joules, probes included, and 0 or 1."""

    stops: NDArray[np.int64]
    energy_j: Array
    correct: Array

    def utility(self, price: float) -> Array:
        """(n,) accuracy less joules at `price` points per joule."""
        return self.correct - price / POINTS * self.energy_j


def stop_of(trace: Trace, rule: CategoryRule, solved: Decisions) -> int:
    """The checkpoint where the rule would have stopped the run; how many it has if it ends by itself."""
    for number, cell in enumerate(trace.cells(rule.axes)):
        found = look_up(solved, number, cell)
        if found is None or found.stops:
            return number
    return len(trace.checkpoints)


def replay(traces: Sequence[Trace], rule: CategoryRule, price: float) -> Outcome:
    """One category's runs under its rule at `price` points per joule."""
    solved = decisions(rule, price)
    return at_stops(
        traces, [stop_of(trace, rule, solved) for trace in traces], probed=bool(rule.axes.confidence)
    )


def replay_all(traces: Sequence[Trace], rules: StoppingRule, price: float) -> Outcome:
    """Runs of any categories, each under its own rule, in their order."""
    stops = np.zeros(len(traces), int)
    energy_j, correct = np.zeros(len(traces)), np.zeros(len(traces))
    for category in dict.fromkeys(trace.end.category for trace in traces):
        rows = [row for row, trace in enumerate(traces) if trace.end.category == category]
        found = replay([traces[row] for row in rows], rules.of(category)[1], price)
        stops[rows], energy_j[rows], correct[rows] = found.stops, found.energy_j, found.correct
    return Outcome(stops, energy_j, correct)


def at_stops(traces: Sequence[Trace], stops: Sequence[int], *, probed: bool = False) -> Outcome:
    """Runs stopped at these checkpoints, or ended by themselves. `probed`: every one up to there was."""
    energy_j, correct = [], []
    for trace, stop in zip(traces, stops, strict=True):
        entry = trace.checkpoints[stop] if stop < len(trace.checkpoints) else trace.end
        probes_j = sum(passed.probe_j for passed in trace.checkpoints[: stop + 1]) if probed else 0.0
        energy_j.append(entry.energy_j + entry.answer_j + probes_j)
        correct.append(float(entry.correct))
    return Outcome(np.array(stops, int), np.array(energy_j), np.array(correct))


def worth(traces: Sequence[Trace], rule: CategoryRule, price: float) -> Array:
    """(n,) utility of each run under the rule at `price` points per joule."""
    return replay(traces, rule, price).utility(price)


def columns(grid: Grid, chosen: NDArray[np.int64]) -> Outcome:
    """As `at_stops`, of the tables."""
    rows = np.arange(len(chosen))
    return Outcome(chosen, grid.energy_j[rows, chosen], grid.correct[rows, chosen])
