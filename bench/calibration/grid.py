"""Runs as two tables: what stopping at each checkpoint would have cost, and whether it was right there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.calibration.log import Trace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """n runs, stopped after at most 0, 1, …, K steps; the last column is the whole run.

    `energy_j` (n, K+1): answer included, probes not. `correct` (n, K+1): 0 or 1. A run that ended before has
    its own end in the columns behind. `clusters` (n,): equal for runs of the same question. `categories`
    (n,).
    """

    energy_j: Array
    correct: Array
    clusters: NDArray[np.int64]
    categories: NDArray[np.str_]

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "Grid":
        """Raises `ValueError` for no runs at all."""
        if not traces:
            raise ValueError("there are no runs")
        width = max(len(trace.checkpoints) for trace in traces) + 1
        energy_j, correct = np.zeros((len(traces), width)), np.zeros((len(traces), width))
        for row, trace in enumerate(traces):
            for column in range(width):
                entry = trace.checkpoints[column] if column < len(trace.checkpoints) else trace.end
                energy_j[row, column] = entry.energy_j + entry.answer_j
                correct[row, column] = entry.correct
        names = {name: i for i, name in enumerate(dict.fromkeys(map(_question, traces)))}
        return cls(
            energy_j,
            correct,
            np.array([names[_question(trace)] for trace in traces]),
            np.array([trace.end.category for trace in traces]),
        )

    def part(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Grid":
        return Grid(self.energy_j[rows], self.correct[rows], self.clusters[rows], self.categories[rows])

    def utility(self, per_j: float) -> Array:
        """(n, K+1) accuracy less joules at a price. `per_j`: accuracy, not points, per joule."""
        return self.correct - per_j * self.energy_j


def _question(trace: Trace) -> tuple[str, str]:
    return trace.end.category, trace.end.question
