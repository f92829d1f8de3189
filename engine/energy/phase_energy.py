"""Joules of a load's on and off phases, by three accounts: a meter, readings as they stand, a sensor model.

The phases lie between the first and the last switching of the load, on first. The model's account takes one
power for each kind of phase and finds both by least squares from what every reading averages over; a single
phase shorter than a reading's window is not resolved, and need not be. The naive account holds each reading
until the next, which is what integrating a polled power does.
"""

from dataclasses import dataclass

import numpy as np

from engine.energy.nnls import nnls
from engine.energy.power_trace import Array, PowerTrace
from engine.energy.sensor_model import SensorModel
from engine.energy.sensor_updates import Updates

_AROUND = 3  # readings
_SEPARATED = 0.05  # standard deviation of the share of load in what the readings average over


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """J of all phases of a kind; None where there is no such phase."""

    load_j: float | None
    idle_j: float | None

    def errors(self, truth: "PhaseEnergy") -> tuple[float | None, float | None]:
        """(load, idle): (this - truth) / truth."""
        pairs = ((self.load_j, truth.load_j), (self.idle_j, truth.idle_j))
        load, idle = (mine / true - 1 if mine is not None and true else None for mine, true in pairs)
        return load, idle


def by_trace(trace: PowerTrace, marks_s: Array) -> PhaseEnergy:
    """The phases' energy in a trace that covers them."""
    energy_j = trace.energy_j(marks_s[:-1], marks_s[1:])
    return PhaseEnergy(
        *(float(part.sum()) if len(part) else None for part in (energy_j[::2], energy_j[1::2]))
    )


def naive(times_s: Array, readings_w: Array, marks_s: Array) -> PhaseEnergy:
    """Each polled reading (m,) held until the next, nothing taken off or shifted."""
    edges_s = np.append(times_s, times_s[-1] + (times_s[-1] - times_s[-2]))
    return by_trace(PowerTrace(edges_s, readings_w), marks_s)


def by_model(model: SensorModel, updates: Updates, marks_s: Array) -> PhaseEnergy:
    """What the model makes of the readings that see anything between the first and the last mark.

    Three readings before and after count as well: they show the idle device, which a load without pauses
    leaves to nobody else.

    Raises `ValueError`, one line for the user, where the readings cannot tell load from idle.
    """
    around_s = _AROUND * updates.period_s
    last_s = updates.times_s - model.lag_s
    first_s = last_s - model.boxcar_s - 2 * model.tau_s
    inside = updates.part((last_s > marks_s[0] - around_s) & (first_s < marks_s[-1] + around_s))
    load = PowerTrace.from_marks(marks_s)
    share = model.averaged(load, inside.times_s)
    if len(share) < 2 or share.std() < _SEPARATED:
        raise ValueError("every reading averages over the same share of load: load and idle cannot be told")
    power_w = nnls(np.stack([share, 1 - share], axis=1), model.true_w(inside.readings))
    lengths_s = np.diff(marks_s)
    load_s, idle_s = float(lengths_s[::2].sum()), float(lengths_s[1::2].sum())
    return PhaseEnergy(float(power_w[0]) * load_s, float(power_w[1]) * idle_s if idle_s else None)
