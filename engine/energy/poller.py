"""Reads a meter often and keeps the readings at which it changed. Knows nothing of requests or steps."""

import math
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from types import TracebackType

from engine.energy.meter import Clock, Meter, Reading
from engine.errors import MeterError

INTERVAL_S = 0.001
CAPACITY = 200_000  # readings kept, about 30 MB: 33 minutes of a 10 ms counter


@dataclass(frozen=True, slots=True)
class PollerLog:
    """A consistent copy of what a poller knows.

    `readings`: the first reading and every change since (of a fresh meter: every read). `slack_s[i]`: the
    counter took the value of `readings[i]` at most this long before `readings[i].after_s`, when it was
    last seen with another value; infinite for the first. `confirmation`: the latest read, if it found the
    value of the last reading unchanged.
    """

    readings: tuple[Reading, ...]
    slack_s: tuple[float, ...]
    confirmation: Reading | None


class Poller:
    """Polls `meter` from a daemon thread, every `interval_s`, between `start` and `stop`.

    No thread runs for a meter whose reads are always fresh (`sensor.period_s == 0`): there `poll` by hand
    wherever a reading is wanted; each is recorded, since an unchanged one is news, too. A `MeterError` of
    the thread, or a counter that runs backwards, ends the polling and stays in `failure`. The log holds
    `capacity` readings at most: when it is full, every second one of its older half is dropped and counted
    in `thinned`, which costs time resolution but no energy, since the readings are cumulative. `clock`
    must be the meter's own; with `sleep` it also serves waiting without a thread, so that a virtual clock
    may stand in. The meter stays its owner's to close. Thread-safe.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        interval_s: float = INTERVAL_S,
        capacity: int = CAPACITY,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(interval_s) and interval_s > 0):
            raise ValueError(f"interval_s must be positive, got {interval_s!r}")
        if capacity < 4:
            raise ValueError(f"capacity must be at least 4 readings, got {capacity!r}")
        self.meter = meter
        self.interval_s = interval_s
        self.fresh = meter.sensor.period_s == 0
        self.failure: MeterError | None = None
        self.reads = 0
        self.thinned = 0
        self._capacity = capacity
        self.clock = clock
        self._sleep = sleep
        self._reading_lock = threading.Lock()  # one read at a time, and recorded in the order it was made
        self._state = threading.Condition()  # guards everything below; notified of changes and failure
        self._readings: list[Reading] = []
        self._slack_s: list[float] = []
        self._last_read: Reading | None = None
        self._changes_s: deque[float] = deque(maxlen=1024)  # gaps between recent changes
        self._changed_s: float | None = None  # when the last change was seen
        self._unchanged_s = -math.inf  # when the value before it was last seen
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Take the first reading, then poll in the background. Raises `MeterError` if that reading fails."""
        if self._thread is not None:
            raise RuntimeError("the poller is running already")
        self.poll()
        if not self.fresh:
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="energy-poller", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the polling; what was recorded stays. May be called more than once."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout=2.0)  # a driver call that hangs must not hang its caller

    def __enter__(self) -> "Poller":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def poll(self) -> Reading:
        """Read the meter now, in this thread; the reading is returned whether or not it is a change.

        Raises `MeterError` if the read fails, the counter runs backwards, or polling failed before.
        """
        with self._reading_lock:
            if self.failure is not None:
                raise MeterError(str(self.failure)) from self.failure
            try:
                reading = self.meter.read()
                self._record(reading)
            except MeterError as error:
                self._fail(error)
                raise
            except Exception as error:  # a thread that dies without a word would leave a frozen counter
                failure = MeterError(f"reading the energy source {self.meter.name!r} failed: {error!r}")
                self._fail(failure)
                raise failure from error
            return reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The first reading and every change since, oldest first; a copy, so not for every token."""
        return self.log().readings

    @property
    def latest(self) -> Reading | None:
        """The last of `readings`, at no cost; None before the first."""
        with self._state:
            return self._readings[-1] if self._readings else None

    def log(self, since_s: float = -math.inf) -> PollerLog:
        """The log from the last reading taken wholly before `since_s` on (from the first, where none was)."""
        with self._state:
            first = max(bisect_right(self._readings, since_s, key=lambda reading: reading.after_s) - 1, 0)
            readings = tuple(self._readings[first:])
            unchanged = bool(readings) and self._last_read is not readings[-1]
            return PollerLog(readings, tuple(self._slack_s[first:]), self._last_read if unchanged else None)

    def tick_s(self) -> float | None:
        """Median time between changes, of the last thousand; 0 for a fresh meter, None if not yet known."""
        if self.fresh:
            return 0.0
        with self._state:
            return median(self._changes_s) if self._changes_s else None

    def wait_for_change(self, after_s: float, timeout_s: float) -> bool:
        """Wait until the counter has certainly changed after `after_s`; False on timeout or failure.

        Certainly: the old value was still seen at `after_s` or later. A fresh meter needs no change, only
        a read. Without a running thread the polling is done here, with the injected clock and sleep.
        """
        deadline_s = self.clock() + timeout_s
        self._poll_quietly()
        if self._thread is not None:
            with self._state:
                self._state.wait_for(lambda: bool(self.failure) or self._changed_after(after_s), timeout_s)
        else:
            while not (self.failure or self._changed_after(after_s) or self.clock() >= deadline_s):
                self._sleep(self.interval_s)
                self._poll_quietly()
        return self._changed_after(after_s)

    def _changed_after(self, after_s: float) -> bool:
        if self.fresh:
            return self._last_read is not None and self._last_read.before_s >= after_s
        return self._unchanged_s >= after_s

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(self.interval_s):
            self._poll_quietly()
            if self.failure is not None:
                return

    def _poll_quietly(self) -> None:
        with suppress(MeterError):  # kept in `failure`
            self.poll()

    def _fail(self, error: MeterError) -> None:
        with self._state:
            self.failure = error
            self._state.notify_all()

    def _record(self, reading: Reading) -> None:
        with self._state:
            last = self._last_read
            if last is not None and reading.energy_uj < last.energy_uj:
                raise MeterError(
                    f"the counter of {self.meter.name!r} ran backwards, "
                    f"from {last.energy_uj} to {reading.energy_uj} µJ"
                )
            self.reads += 1
            self._last_read = reading
            changed = last is not None and reading.energy_uj != last.energy_uj
            if last is not None and changed:
                if self._changed_s is not None:
                    self._changes_s.append(reading.time_s - self._changed_s)
                self._changed_s = reading.time_s
                self._unchanged_s = last.before_s
            if changed or self.fresh or last is None:
                self._readings.append(reading)
                self._slack_s.append(math.inf if last is None else reading.after_s - last.before_s)
                if len(self._readings) > self._capacity:
                    self._thin()
                self._state.notify_all()

    def _thin(self) -> None:
        half = self._capacity // 2
        before = len(self._readings)
        del self._readings[1:half:2]
        del self._slack_s[1:half:2]
        self.thinned += before - len(self._readings)
