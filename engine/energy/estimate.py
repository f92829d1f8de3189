"""No counter at hand: busy CPU time of this process, times a power per core. An estimate, and says so."""

import math
import os
import time
from collections.abc import Callable

from engine.energy.meter import Clock, Reading, Sensor
from engine.errors import UsageError

WATTS_PER_CORE = 4.0  # per thread: what CodeCarbon falls back on for a CPU that it does not know
WATTS_VARIABLE = "TOKENJOULE_WATTS_PER_CORE"


class CpuEstimateMeter:
    """Energy = CPU time of all threads of this process times watts per core, from 0 at opening.

    Time spent waiting costs nothing, and neither do other processes, memory or the board.
    `watts_per_core` defaults to the environment variable TOKENJOULE_WATTS_PER_CORE, then to 4 W.
    `cpu_clock` gives the process's CPU time in ns. Every read is fresh.
    Raises `UsageError` unless the watts are a positive number.
    """

    name = "estimate"
    measured = False

    def __init__(
        self,
        watts_per_core: float | None = None,
        *,
        clock: Clock = time.monotonic,
        cpu_clock: Callable[[], int] = time.process_time_ns,
    ) -> None:
        watts = _watts_per_core(watts_per_core)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.watts_per_core = watts
        self.device = f"CPU, this process on {cores} core{'s' if cores > 1 else ''}"
        self.note = f"estimate: busy CPU time at {watts:g} W per core; nothing was measured"
        self.sensor = Sensor(period_s=0.0, idle_w=0.0, peak_w=watts * cores)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._opened_ns = cpu_clock()

    def read(self) -> Reading:
        """Estimated µJ since opening."""
        before_s = self._clock()
        busy_ns = self._cpu_clock() - self._opened_ns
        return Reading(before_s, self._clock(), int(busy_ns * self.watts_per_core / 1000))  # W x ns = nJ

    def close(self) -> None:
        """Nothing is held."""


def _watts_per_core(given: float | None) -> float:
    origin, value = "watts_per_core", given
    if value is None:
        text = os.environ.get(WATTS_VARIABLE)
        if text is None:
            return WATTS_PER_CORE
        origin = WATTS_VARIABLE
        try:
            value = float(text)
        except ValueError:
            raise UsageError(f"{WATTS_VARIABLE} must be a positive number of watts, got {text!r}") from None
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{origin} must be a positive number of watts, got {value!r}")
    return value
