"""Plays a recorded log back as if it were a live counter; the recording's joules, not this run's.

Two formats: JSONL as `--trace` writes it (lines with `"event": "reading"`, `time_s`, `energy_uj`; other
events are passed over) and .npz with `time_s` and either `energy_j` or `power_w`, or with no more than a
sensor's log of power in the arrays of `power_recording`. Power is integrated.
"""

import json
import math
import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from engine.energy.meter import MICROJOULES_PER_JOULE, Clock, Reading, Sensor
from engine.errors import MeterError, TokenjouleError, UsageError


class ReplayMeter:
    """Replays `path` from its beginning; it stands there until `play`, which a request's start calls.

    The value holds between two entries of the log. The sensor's period is the median time between two
    changes of the recorded value; nothing else is known of it. `duration_s` is the recording's length.
    Raises `UsageError` for a file that cannot be read, `MeterError` for one that is no recording, with the
    line (or row) at fault.
    """

    name = "replay"
    measured = False

    def __init__(self, path: str | Path, *, clock: Clock = time.monotonic) -> None:
        path = Path(path)
        try:
            times_s, energies_uj = _from_npz(path) if path.suffix == ".npz" else _from_jsonl(path)
        except OSError as error:
            raise UsageError(f"cannot read the recording {path}: {error.strerror or error}") from error
        if len(times_s) < 2:
            raise MeterError(f"{path}: a recording needs two readings or more, this one has {len(times_s)}")
        self._times_s = [time_s - times_s[0] for time_s in times_s]
        self._energies_uj = energies_uj
        self._clock = clock
        self._started_s: float | None = None
        self.duration_s = self._times_s[-1]
        self.device = f"recording {path.name}"
        self.note = f"replay of {path.name}: the joules of that recording, not of this run"
        self.sensor = Sensor(
            period_s=_median_change_s(self._times_s, self._energies_uj),
            peak_w=_highest_w(self._times_s, self._energies_uj),
        )

    def read(self) -> Reading:
        """The recorded counter, in µJ. Raises `MeterError` once the recording is over."""
        before_s = self._clock()
        elapsed_s = 0.0 if self._started_s is None else before_s - self._started_s
        if elapsed_s > self.duration_s:
            raise MeterError(f"the recording ended after {self.duration_s:g} s")
        energy_uj = self._energies_uj[bisect_right(self._times_s, elapsed_s) - 1]
        return Reading(before_s, self._clock(), energy_uj)

    def play(self) -> None:
        """The recording runs from now on."""
        if self._started_s is None:
            self._started_s = self._clock()

    def close(self) -> None:
        """Nothing is held."""


def _from_jsonl(path: Path) -> tuple[list[float], list[int]]:
    times_s: list[float] = []
    energies_uj: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                event = json.loads(line)
            except ValueError as error:  # UnicodeDecodeError is one, too
                raise MeterError(f"{where}: not JSON: {error}") from error
            if not isinstance(event, dict):
                raise MeterError(f"{where}: expected a JSON object, got {type(event).__name__}")
            if event.get("event") != "reading":
                continue
            time_s, energy_uj = event.get("time_s"), event.get("energy_uj")
            if isinstance(time_s, bool) or not isinstance(time_s, (int, float)) or not math.isfinite(time_s):
                raise MeterError(f"{where}: time_s must be a number, got {time_s!r}")
            if isinstance(energy_uj, bool) or not isinstance(energy_uj, int):
                raise MeterError(f"{where}: energy_uj must be a whole number, got {energy_uj!r}")
            if times_s and time_s < times_s[-1]:
                raise MeterError(f"{where}: time_s goes back from {times_s[-1]!r} to {time_s!r}")
            if energies_uj and energy_uj < energies_uj[-1]:
                raise MeterError(f"{where}: energy_uj goes back from {energies_uj[-1]} to {energy_uj}")
            times_s.append(float(time_s))
            energies_uj.append(energy_uj)
    return times_s, energies_uj


def _from_npz(path: Path) -> tuple[list[float], list[int]]:
    """Energy in µJ from `energy_j` if there is one, otherwise from power."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            log_only = "time_s" not in archive and "sensor_t_ms" in archive
            arrays = {name: archive[name] for name in ("time_s", "energy_j", "power_w") if name in archive}
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile have a dozen exceptions for a damaged archive
        raise MeterError(f"{path}: not a readable .npz archive: {error}") from error
    if log_only:
        return _integrated(path, *_sensor_log(path))
    if "time_s" not in arrays or len(arrays) < 2:
        raise MeterError(f"{path}: needs time_s and energy_j or power_w, has {', '.join(arrays) or 'none'}")
    values_name = "energy_j" if "energy_j" in arrays else "power_w"
    for name in ("time_s", values_name):
        array = arrays[name]
        if array.ndim != 1 or array.dtype.kind not in "fiu" or len(array) != len(arrays["time_s"]):
            raise MeterError(f"{path}: {name} must be a row of numbers as long as time_s, has {array.shape}")
        arrays[name] = array = array.astype(np.float64)
        _refuse_rows(path, f"{name} is not finite", ~np.isfinite(array))
    times_s, values = arrays["time_s"], arrays[values_name]
    _refuse_rows(path, "time_s goes back", np.diff(times_s, prepend=times_s[:1]) < 0)
    if values_name == "power_w":
        return _integrated(path, times_s, values)
    _refuse_rows(path, "energy_j goes back", np.diff(values, prepend=values[:1]) < 0)
    return times_s.tolist(), _microjoules(values)


def _sensor_log(path: Path) -> tuple[Any, Any]:
    """Times in s and W of a recording that holds no counter: the instant power where there is one."""
    from engine.energy.power_recording import read_recording

    try:
        recording = read_recording(path)
    except TokenjouleError as error:
        raise MeterError(str(error)) from error
    return recording.channels[recording.channel(None)]


def _integrated(path: Path, times_s: Any, power_w: Any) -> tuple[list[float], list[int]]:
    """By the trapezoid rule."""
    import numpy as np

    _refuse_rows(path, "power_w is negative", power_w < 0)
    steps_j = np.diff(times_s) * (power_w[1:] + power_w[:-1]) / 2
    return times_s.tolist(), _microjoules(np.concatenate([[0.0], np.cumsum(steps_j)])[: len(times_s)])


def _microjoules(energies_j: Any) -> list[int]:
    return [round(energy_j * MICROJOULES_PER_JOULE) for energy_j in energies_j.tolist()]


def _refuse_rows(path: Path, complaint: str, bad: Any) -> None:
    if bad.any():
        raise MeterError(f"{path}: row {int(bad.argmax())}: {complaint}")


def _highest_w(times_s: Sequence[float], energies_uj: Sequence[int]) -> float | None:
    """The highest mean power over a tenth of the recording, which a few late polls cannot inflate."""
    stride = max(len(times_s) // 10, 1)
    pairs = zip(range(0, len(times_s) - stride), range(stride, len(times_s)), strict=True)
    powers = [
        (energies_uj[j] - energies_uj[i]) / MICROJOULES_PER_JOULE / (times_s[j] - times_s[i])
        for i, j in pairs
        if times_s[j] > times_s[i]
    ]
    return max(powers, default=0.0) or None


def _median_change_s(times_s: Sequence[float], energies_uj: Sequence[int]) -> float | None:
    steps = zip(times_s[1:], pairwise(energies_uj), strict=True)
    changed_s = [time_s for time_s, (old, new) in steps if new != old]
    gaps_s = [later - earlier for earlier, later in pairwise(changed_s) if later > earlier]
    return median(gaps_s) if gaps_s else None
