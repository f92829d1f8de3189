"""A request as rows of a least-squares problem: each tick's joules against its seconds of every feature.

Joules, seconds and watts here; the account in whole µJ is `model_attribution`'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.energy.covariance_shapes import Band
from engine.energy.meter import MICROJOULES_PER_JOULE, Sensor
from engine.energy.power_features import Features
from engine.energy.power_model import Run
from engine.energy.power_trace import Array
from engine.energy.sensor_response import Block, Ticks, blocks, power_seen, updates_of

_SLOPE_S = 0.001  # half the distance over which a sampling sensor's slope is taken: the size of its jitter


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """`energy_j` (n,) of the ticks, `seconds` (n, p): energy = seconds · theta + noise.

    `edges` of a sensor that integrates: (n + 1, p), the power that the counter's slope shows at each reading
    is edges · theta. Of one that samples: (k, p), how fast a tick's joules change when the window of one of
    the k updates moves; `owners` (k,) says which tick that is.
    `blocks` and `features` (m, p) are what `seconds` was made of.
    """

    ticks: Ticks
    energy_j: Array
    seconds: Array
    edges: Array
    owners: npt.NDArray[np.int64] | None
    blocks: tuple[Block, ...]
    features: Array

    @classmethod
    def of(cls, run: Run, features: Features, sensor: Sensor) -> "Design":
        """Raises `ValueError` for readings that fall or steps out of order, `NotIdentifiable` as `matrix`."""
        ticks = Ticks.of(run.readings)
        starts_s = np.array([mark.start_s for mark in run.marks])
        ends_s = np.array([mark.end_s for mark in run.marks])
        if (ends_s < starts_s).any() or any(b.start_s < a.end_s for a, b in pairwise(run.marks)):
            raise ValueError("steps must be in order of time and must not overlap")
        matrix = features.matrix(run.marks)
        seen = tuple(blocks(ticks, starts_s, ends_s, sensor))
        if sensor.sampled:
            updates = updates_of(ticks.times_s, sensor)
            later, earlier = (
                _total(
                    power_seen(updates.times_s + step_s, starts_s, ends_s, sensor),
                    matrix,
                    np.ones(len(updates.times_s)),
                )
                for step_s in (_SLOPE_S, -_SLOPE_S)
            )
            edges = (later - earlier) / (2 * _SLOPE_S) * updates.stand_for_s[:, None]
            owners = updates.ticks
        else:
            owners = None
            times_s = ticks.times_s
            edges = _total(power_seen(times_s, starts_s, ends_s, sensor), matrix, np.ones(len(times_s)))
        return cls(
            ticks,
            np.array(ticks.energy_uj) / MICROJOULES_PER_JOULE,
            _total(seen, matrix, ticks.lengths_s),
            edges,
            owners,
            seen,
            matrix,
        )

    def lag_slope(self, theta: Array, rows: slice) -> Array:
        """(n,) J/s: how the ticks' joules change with the sensor's lag."""
        if self.owners is not None:
            moved = np.bincount(self.owners, self.edges @ theta, len(self.energy_j))
            return np.asarray(-moved[rows], np.float64)
        return np.asarray(-np.diff(self.edges[rows.start : rows.stop + 1] @ theta))

    def jitter(self, theta: Array, rows: slice) -> Band:
        """(n, n) W²: covariance of the ticks' joules for times that scatter with unit variance."""
        if self.owners is not None:
            # A tick stands for the time since the last one: a time read too late adds energy to it, moves
            # its window, and takes energy from the next.
            stood_w = (self.seconds[rows] @ theta) / self.ticks.lengths_s[rows]
            moved = np.bincount(self.owners, self.edges @ theta, len(self.energy_j))[rows]
            own_w = stood_w + moved
            return Band(own_w**2 + stood_w**2, -own_w[:-1] * stood_w[1:])
        power_w = self.edges[rows.start : rows.stop + 1] @ theta
        return _neighbours(power_w**2)


def _neighbours(variance: Array) -> Band:
    """Covariance (n, n) of differences of n + 1 independent values of these variances."""
    return Band(variance[1:] + variance[:-1], -variance[1:-1])


def quantisation(ticks: int, resolution_j: float) -> Band:
    """Covariance (n, n) of the ticks' joules from rounding each reading to the counter's step, in J²."""
    return _neighbours(np.full(ticks + 1, resolution_j**2 / 12))


def _total(seen: Iterable[Block], matrix: Array, whole: Array) -> Array:
    """(n, p) of what the blocks see of each feature; what no step fills of `whole` (n,) is idle."""
    found = np.zeros((len(whole), matrix.shape[1]))
    found[:, 0] = whole
    for block in seen:
        found[block.ticks] += block.seconds @ matrix[block.steps]
        found[block.ticks, 0] -= block.seconds.sum(axis=1)
    return found
