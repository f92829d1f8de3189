"""A device of known power seen through an imperfect sensor: ground truth for everything built on meters.

The device draws a constant power per kind of work. The sensor is the one that reproduces external-meter
recordings of real GPUs: gain, offset, lag, a boxcar average, and a counter that changes once per period.
The default figures are round and illustrative; they describe no particular GPU.
"""

import hashlib
import json
import math
import threading
import time
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.energy.meter import MICROJOULES_PER_JOULE, Clock, Reading, Sensor
from engine.errors import UsageError

_PAST_S = 3600.0  # the device has idled for an hour when the meter is opened: counters do not start at 0


@dataclass(frozen=True, slots=True)
class SimulatedProfile:
    """Device and sensor of a simulation. Raises `ValueError` for a value that makes no sense.

    True power in W: `idle_w`, `prefill_w`, `decode_w` (any other kind of work counts as decode).
    The counter changes at opening + `phase_s` + k·`period_s`; period 0 makes every read fresh. At a tick t
    it shows `gain` times the true energy averaged over [u - `window_s`, u], u = t - `lag_s`, plus
    `offset_w` times the time, rounded down to `resolution_uj`. `gain_error` is what the sensor is said to be
    good for (None: unknown); whether `gain` keeps within it is up to the experiment.
    """

    idle_w: float = 90.0
    prefill_w: float = 600.0
    decode_w: float = 350.0
    period_s: float = 0.1
    phase_s: float = 0.0
    window_s: float = 0.025
    lag_s: float = 0.02
    resolution_uj: int = 1000
    gain: float = 1.0
    offset_w: float = 0.0
    gain_error: float | None = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "gain_error" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{field.name} must be a finite number, got {value!r}")
            if field.name != "offset_w" and value < 0:
                raise ValueError(f"{field.name} must not be negative, got {value!r}")
        if self.resolution_uj != int(self.resolution_uj) or self.resolution_uj < 1:
            raise ValueError(f"resolution_uj must be a whole number from 1 on, got {self.resolution_uj!r}")
        if self.gain <= 0:
            raise ValueError(f"gain must be positive, got {self.gain!r}")
        for name in ("period_s", "phase_s", "window_s", "lag_s"):
            if getattr(self, name) > 60:
                raise ValueError(f"{name} must be at most 60 s, got {getattr(self, name)!r}")
        lowest_w = min(self.idle_w, self.prefill_w, self.decode_w)
        if self.seen_w(lowest_w) < 0:
            raise ValueError(f"offset_w {self.offset_w!r} makes the counter run backwards at {lowest_w:g} W")

    def seen_w(self, power_w: float) -> float:
        """What the sensor makes of a steady true power, in W."""
        return self.gain * power_w + self.offset_w


BUILTIN_PROFILES = {"default": SimulatedProfile()}


def load_profile(text: str) -> SimulatedProfile:
    """The built-in profile named `text`, or the one in the JSON file at that path (one flat object).

    Raises `UsageError` for a missing or malformed file, an unknown key or a bad value.
    """
    if text in BUILTIN_PROFILES:
        return BUILTIN_PROFILES[text]
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(BUILTIN_PROFILES)
        raise UsageError(
            f"simulated profile {text!r} is neither built in ({known}) nor a readable file: {error.strerror}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{text}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{text}: expected one JSON object, got {type(content).__name__}")
    known_keys = [field.name for field in fields(SimulatedProfile)]
    unknown = [key for key in content if key not in known_keys]
    if unknown:
        raise UsageError(f"{text}: unknown key {unknown[0]!r}; known are {', '.join(known_keys)}")
    values: dict[str, Any] = content
    try:
        return SimulatedProfile(**values)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from error


def _digest(profile: SimulatedProfile) -> str:
    """Eight digits that tell a profile from others."""
    return hashlib.sha256(json.dumps(asdict(profile), sort_keys=True).encode()).hexdigest()[:8]


class VirtualClock:
    """A monotonic clock that moves only when told to, by `sleep(seconds)` or `jump(to_s)`."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def __call__(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self.jump(self._now_s + seconds)

    def jump(self, to_s: float) -> None:
        if to_s < self._now_s:
            raise ValueError(f"a monotonic clock cannot go from {self._now_s} s back to {to_s} s")
        self._now_s = to_s


class SimulatedMeter:
    """The counter of a simulated device; `enter(kind)` tells it what the device does from now on.

    The device idles until the first `enter`, and has idled for an hour before. Sensor figures (`idle_w`,
    `peak_w`) are in the counter's own joules: gain and offset included. `peak_w` covers the profile's
    kinds of work, not what `set_power` may ask for. Thread-safe.
    """

    name = "simulated"
    measured = False

    def __init__(
        self, profile: SimulatedProfile = BUILTIN_PROFILES["default"], *, clock: Clock = time.monotonic
    ) -> None:
        self.profile = profile
        self.device = "simulated device"
        # The profile is part of it: by the note, records of one simulation are told from those of another.
        self.variant = "" if profile == BUILTIN_PROFILES["default"] else _digest(profile)
        shape = f" by profile {self.variant}" if self.variant else ""
        self.note = f"simulation{shape}: the joules are invented, no device was measured"
        self.sensor = Sensor(
            period_s=profile.period_s,
            lag_s=profile.lag_s,
            window_s=profile.window_s,
            resolution_uj=int(profile.resolution_uj),
            gain_error=profile.gain_error,
            idle_w=profile.seen_w(profile.idle_w),
            peak_w=profile.seen_w(max(profile.idle_w, profile.prefill_w, profile.decode_w)),
        )
        self._kind_w = {"idle": profile.idle_w, "prefill": profile.prefill_w}
        self._clock = clock
        self._lock = threading.Lock()
        now_s = clock()
        self._first_tick_s = now_s + profile.phase_s
        self._start_s = [now_s - _PAST_S]  # three parallel columns: segment i begins at _start_s[i], draws
        self._power_w = [profile.idle_w]  # _power_w[i], and _energy_uj[i] had been used when it began
        self._energy_uj = [0.0]
        self._shown_at_s: float | None = None
        self._shown_uj = 0

    def enter(self, kind: str) -> None:
        """From now on the device does work of `kind`: idle, prefill or (anything else) decode."""
        self._draw(self._kind_w.get(kind, self.profile.decode_w))

    def set_power(self, watts: float) -> None:
        """From now on the device draws `watts`. Raises `ValueError` if the counter would run backwards."""
        if not math.isfinite(watts) or watts < 0 or self.profile.seen_w(watts) < 0:
            raise ValueError(f"power must not be negative, nor be seen so by the sensor, got {watts!r} W")
        self._draw(watts)

    def _draw(self, watts: float) -> None:
        with self._lock:
            now_s = self._clock()
            elapsed_s = now_s - self._start_s[-1]
            if elapsed_s < 0:
                raise ValueError(f"the clock went back from {self._start_s[-1]} s to {now_s} s")
            if elapsed_s == 0:
                self._power_w[-1] = watts
            elif watts != self._power_w[-1]:
                used_uj = self._power_w[-1] * elapsed_s * MICROJOULES_PER_JOULE
                self._energy_uj.append(self._energy_uj[-1] + used_uj)
                self._start_s.append(now_s)
                self._power_w.append(watts)

    @property
    def segments(self) -> list[tuple[float, float]]:
        """The truth: (start time in s, power in W), the first an hour before opening."""
        with self._lock:
            return list(zip(self._start_s, self._power_w, strict=True))

    def true_energy_uj(self, time_s: float) -> float:
        """µJ really used up to `time_s`, from an hour before opening; the present power lasts for ever."""
        with self._lock:
            return self._energy_at(time_s)

    def next_tick_s(self, after_s: float) -> float:
        """The first time after `after_s` at which the counter changes, in s; a read at it sees the change.

        Raises `ValueError` for period 0, where there are no ticks.
        """
        if self.profile.period_s == 0:
            raise ValueError("period_s is 0: every read is fresh, there is no next tick")
        return self._tick(self._tick_index(after_s) + 1)

    def read(self) -> Reading:
        """The counter as of the last tick, in µJ."""
        with self._lock:
            before_s = self._clock()
            tick_s = before_s if self.profile.period_s == 0 else self._tick(self._tick_index(before_s))
            if tick_s != self._shown_at_s:
                self._shown_at_s = tick_s
                self._shown_uj = max(self._shown_uj, self._counter_uj(tick_s))  # against the last float bit
            return Reading(before_s, self._clock(), self._shown_uj)

    def close(self) -> None:
        """Nothing is held."""

    def _counter_uj(self, tick_s: float) -> int:
        profile = self.profile
        end_s = tick_s - profile.lag_s
        offset_uj = profile.offset_w * (tick_s - self._start_s[0]) * MICROJOULES_PER_JOULE
        exact_uj = profile.gain * self._average_energy_uj(end_s - profile.window_s, end_s) + offset_uj
        step_uj = int(profile.resolution_uj)
        return math.floor(exact_uj / step_uj) * step_uj

    def _average_energy_uj(self, from_s: float, to_s: float) -> float:
        """(1/W) ∫E dt over [from, to] = E(to) - (1/W) ∫P(t)·(t - from) dt, exact for constant pieces of P."""
        width_s = to_s - from_s
        energy_uj = self._energy_at(to_s)
        if width_s <= 0:
            return energy_uj
        moment = 0.0  # W s²
        piece = self._segment_at(to_s)
        high_s = to_s
        while high_s > from_s:
            low_s = max(self._start_s[piece], from_s) if piece else from_s
            moment += self._power_w[piece] * ((high_s - from_s) ** 2 - (low_s - from_s) ** 2) / 2
            high_s = low_s
            piece -= 1
        return energy_uj - moment / width_s * MICROJOULES_PER_JOULE

    def _energy_at(self, time_s: float) -> float:
        piece = self._segment_at(time_s)
        elapsed_s = time_s - self._start_s[piece]
        return self._energy_uj[piece] + self._power_w[piece] * elapsed_s * MICROJOULES_PER_JOULE

    def _segment_at(self, time_s: float) -> int:
        return max(bisect_right(self._start_s, time_s) - 1, 0)

    def _tick(self, index: int) -> float:
        return self._first_tick_s + index * self.profile.period_s

    def _tick_index(self, time_s: float) -> int:
        """The last k with tick(k) <= time, exactly: the division alone may be off by one."""
        index = math.floor((time_s - self._first_tick_s) / self.profile.period_s)
        while self._tick(index + 1) <= time_s:
            index += 1
        while self._tick(index) > time_s:
            index -= 1
        return index
