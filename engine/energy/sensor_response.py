"""What a sensor makes of steps of unit power: seconds of each step inside each tick, in closed form.

A counter that integrates shows at t the energy of the power behind a filter of first order (tau), averaged
over [u - window, u], u = t - lag; a tick gets the difference of two such figures. A sensor that samples gives
a tick its length times the mean power of that window. Owns the integrals of a step that begins at a given
age: zero before it, polynomial and one exponential after. Knows no joules and no features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.energy.meter import Reading, Sensor
from engine.energy.power_trace import Array

_SETTLED = 40.0  # time constants after which a filter's exponential is below the last bit
_CELLS = 1 << 12  # ticks x steps of one block: few steps stand beside ticks that cannot see them
_MISSED = 1.5  # periods: a sampling sensor has had more than one update in a tick longer than that


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """Changes of a counter. `times_s` (n + 1,) of the readings, `energy_uj` the n rises between them.

    A reading that repeats the energy before it is no tick: its time passes into the next one.
    """

    times_s: Array
    energy_uj: tuple[int, ...]

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> "Ticks":
        """Raises `ValueError` for a counter that falls or stands still."""
        kept = [readings[0]] if readings else []
        for reading in readings:
            if reading.energy_uj < kept[-1].energy_uj:
                raise ValueError("the counter fell between two readings")
            if reading.energy_uj > kept[-1].energy_uj:
                kept.append(reading)
        if len(kept) < 2:
            raise ValueError(f"attribution needs two readings or more that differ, found {len(kept)}")
        times_s = np.array([reading.time_s for reading in kept])
        if not (np.diff(times_s) > 0).all():
            raise ValueError("the times of the readings must rise")
        energies = [reading.energy_uj for reading in kept]
        return cls(times_s, tuple(b - a for a, b in pairwise(energies)))

    @property
    def lengths_s(self) -> Array:
        return np.diff(self.times_s)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Seconds of the steps `steps` seen in the ticks `ticks`: (ticks, steps). Outside all blocks it is 0."""

    ticks: slice
    steps: slice
    seconds: Array


def blocks(ticks: Ticks, starts_s: Array, ends_s: Array, sensor: Sensor) -> Iterator[Block]:
    """Every tick's seconds of every step that it can see. Steps (m,) are in order of time, without overlap.

    A step's seconds over all ticks add up to its span where the ticks cover it and the sensor integrates.
    """
    count, steps = len(ticks.energy_uj), len(starts_s)
    size = max(int(math.sqrt(_CELLS * count / max(steps, 1))), 4)
    seen = _sampled if sensor.sampled else _integrated
    lag_s, memory_s = sensor.lag_s or 0.0, (sensor.window_s or 0.0) + _SETTLED * sensor.tau_s
    for low in range(0, count, size):
        times_s = ticks.times_s[low : low + size + 1]
        first = int(np.searchsorted(ends_s, times_s[0] - lag_s - memory_s, side="right"))
        stop = int(np.searchsorted(starts_s, times_s[-1] - lag_s, side="left"))
        if stop > first:
            inside = slice(first, stop)
            seconds = seen(times_s - lag_s, starts_s[inside], ends_s[inside], sensor)
            yield Block(slice(low, low + len(times_s) - 1), inside, seconds)


def power_seen(times_s: Array, starts_s: Array, ends_s: Array, sensor: Sensor) -> Iterator[Block]:
    """The share of each step in the mean power that the sensor sees at `times_s` (n,)."""
    mean = _mean(sensor)
    size = max(int(math.sqrt(_CELLS * len(times_s) / max(len(starts_s), 1))), 4)
    lag_s, memory_s = sensor.lag_s or 0.0, (sensor.window_s or 0.0) + _SETTLED * sensor.tau_s
    for low in range(0, len(times_s), size):
        at_s = times_s[low : low + size] - lag_s
        first = int(np.searchsorted(ends_s, at_s[0] - memory_s, side="right"))
        stop = int(np.searchsorted(starts_s, at_s[-1], side="left"))
        if stop > first:
            ages_s = at_s[:, None]
            share = mean(ages_s - starts_s[first:stop]) - mean(ages_s - ends_s[first:stop])
            yield Block(slice(low, low + len(at_s)), slice(first, stop), share)


def _integrated(times_s: Array, starts_s: Array, ends_s: Array, sensor: Sensor) -> Array:
    """(n, m) seconds in the n ticks between `times_s` (n + 1,), lag taken off."""
    tau_s, window_s = sensor.tau_s, sensor.window_s or 0.0

    def counted(age_s: Array) -> Array:
        if window_s == 0:
            return _once(age_s, tau_s)
        return (_twice(age_s, tau_s) - _twice(age_s - window_s, tau_s)) / window_s

    ages_s = times_s[:, None]
    return np.diff(counted(ages_s - starts_s) - counted(ages_s - ends_s), axis=0)


def _sampled(times_s: Array, starts_s: Array, ends_s: Array, sensor: Sensor) -> Array:
    """As `_integrated`: each update stands for the time since the one before it."""
    updates = updates_of(times_s, sensor)
    ages_s = updates.times_s[:, None]
    mean = _mean(sensor)
    seconds = (mean(ages_s - starts_s) - mean(ages_s - ends_s)) * updates.stand_for_s[:, None]
    return np.add.reduceat(seconds, np.flatnonzero(np.diff(updates.ticks, prepend=-1)), axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class UpdateTimes:
    """Of a sampling sensor: (k,) `times_s`, the time that each stands for, and the tick it belongs to."""

    times_s: Array
    stand_for_s: Array
    ticks: npt.NDArray[np.int64]


def updates_of(times_s: Array, sensor: Sensor) -> UpdateTimes:
    """Those behind the n ticks between `times_s` (n + 1,).

    A tick longer than 1.5 periods has had updates that nobody read, as many as fit evenly.
    """
    lengths_s = np.diff(times_s)
    period_s = sensor.period_s or math.inf
    fit = np.maximum(np.round(lengths_s / period_s), 1)
    updates = np.where(lengths_s > _MISSED * period_s, fit, 1).astype(np.int64)
    ticks = np.repeat(np.arange(len(updates)), updates)
    place = np.arange(len(ticks)) - (np.cumsum(updates) - updates)[ticks] + 1  # 1 .. updates of the tick
    stand_for_s = (lengths_s / updates)[ticks]
    return UpdateTimes(times_s[:-1][ticks] + place * stand_for_s, stand_for_s, ticks)


def _mean(sensor: Sensor) -> Callable[[Array], Array]:
    """Mean power that the sensor sees of a unit step of a given age."""
    tau_s, window_s = sensor.tau_s, sensor.window_s or 0.0

    def mean(age_s: Array) -> Array:
        if window_s == 0:
            return _filtered(age_s, tau_s)
        return (_once(age_s, tau_s) - _once(age_s - window_s, tau_s)) / window_s

    return mean


def _filtered(age_s: Array, tau_s: float) -> Array:
    """y(a) = 1 - exp(-a / tau) from age 0 on: the power behind the filter."""
    if tau_s == 0:
        return (age_s > 0).astype(np.float64)
    return -np.expm1(-np.maximum(age_s, 0.0) / tau_s)


def _once(age_s: Array, tau_s: float) -> Array:
    """∫y = a - tau·y(a), in s."""
    grown = np.maximum(age_s, 0.0)
    return grown if tau_s == 0 else grown - tau_s * _filtered(grown, tau_s)


def _twice(age_s: Array, tau_s: float) -> Array:
    """∫∫y = a²/2 - tau·a + tau²·y(a), in s²."""
    grown = np.maximum(age_s, 0.0)
    if tau_s == 0:
        return grown * grown / 2
    return grown * (grown / 2 - tau_s) + tau_s * tau_s * _filtered(grown, tau_s)
