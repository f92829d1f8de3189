"""What others do with a held counter: for comparison beside the model, never for an account."""

from bisect import bisect_right
from collections.abc import Sequence

from engine.energy.attribution import StepMark
from engine.energy.meter import Reading


def held_windows_uj(readings: Sequence[Reading], marks: Sequence[StepMark]) -> tuple[float, ...]:
    """E(t1) - E(t0) of each step's ends, the counter held between its changes: 0 or a whole tick."""
    times = [reading.time_s for reading in readings]

    def held(time_s: float) -> int:
        return readings[max(bisect_right(times, time_s) - 1, 0)].energy_uj

    return tuple(float(held(mark.end_s) - held(mark.start_s)) for mark in marks)


def power_times_time_uj(readings: Sequence[Reading], marks: Sequence[StepMark]) -> tuple[float, ...]:
    """Mean power of the last whole tick at each step's end, times the step's seconds.

    The first tick stands in for a step that ends before it. Raises `ValueError` for fewer than two readings.
    """
    if len(readings) < 2:
        raise ValueError(f"power needs two readings or more, found {len(readings)}")
    times = [reading.time_s for reading in readings]
    found = []
    for mark in marks:
        last = min(max(bisect_right(times, mark.end_s) - 1, 1), len(readings) - 1)
        rise_uj = readings[last].energy_uj - readings[last - 1].energy_uj
        found.append(rise_uj / (times[last] - times[last - 1]) * (mark.end_s - mark.start_s))
    return tuple(found)
