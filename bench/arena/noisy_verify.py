"""Noisy verification against the optimum of the transitions that the model itself showed.

Of each run the log tells after every line whether an answer forced there is right, which is whether the line
is, and whether the pass changed the line. From these come the chain's rates, from the rates the exact
optimum, and its stops are replayed on the same runs as the policy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.calibration.log import Trace
from bench.calibration.replay import Outcome, at_stops
from bench.testbed.optimal_stop import Checker, measured, solve
from engine.errors import TokenjouleError
from engine.stop.rule import POINTS


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean utilities in accuracy; `share`: of the optimum's that the policy lost."""

    checker: Checker
    optimum: float
    own: float

    @property
    def share(self) -> float:
        return (self.optimum - self.own) / self.optimum if self.optimum else float("nan")


def chain_of(trace: Trace) -> tuple[list[bool], list[bool]]:
    """(whether each line is right, whether each pass changed it)."""
    lines = trace.checkpoints[1:]
    return [entry.correct for entry in lines], [entry.stability == 1 for entry in lines[1:]]


def regret(traces: Sequence[Trace], own: Outcome, price: float) -> Regret:
    """Of a policy's outcome on these runs. Raises `TokenjouleError` for runs that show no chain."""
    runs = [chain_of(trace) for trace in traces if len(trace.checkpoints) > 2]
    try:
        checker = measured(runs)
    except ValueError as error:
        raise TokenjouleError(f"these runs do not show the transitions of a checker: {error}") from error
    passes = [pair for trace in traces for pair in pairwise(trace.checkpoints[1:])]
    pass_j = np.mean([after.energy_j - before.energy_j for before, after in passes])
    best = solve(checker, price / POINTS * float(pass_j))
    stops = []
    for trace in traces:
        changed = chain_of(trace)[1]
        lines = len(trace.checkpoints) - 1
        found = next((n for n in range(lines) if best.stops(tuple(changed[:n]))), lines)
        stops.append(min(found + 1, len(trace.checkpoints)))
    # Before the first line there is nothing to believe in: the better of never thinking and the chain's
    # optimum.
    worth = [at_stops(traces, chosen).utility(price).mean() for chosen in (stops, [0] * len(traces))]
    return Regret(checker, float(max(worth)), float(own.utility(price).mean()))
