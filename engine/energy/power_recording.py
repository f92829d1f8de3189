"""Recordings of power as .npz: an external meter, the GPU's own sensor log, and when the load switched.

The format is that of the recordings of arXiv 2312.02741 as they were decoded for this project. Times are in
ms on one clock: `meter_t_ms`, `meter_power_w`; `sensor_t_ms` with `sensor_draw_w` and `sensor_instant_w`
(NaN where a driver has none); `load_mark_t_ms`, when the load was switched on, off, on, …, each time noted
once or twice. `bench.sensor` adds the driver's counter (`time_s`, `energy_j`) and what was measured on
(`gpu`, `uuid`, `driver`). All are optional but one channel of the sensor; other arrays are passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.energy.power_trace import Array, PowerTrace
from engine.energy.sensor_updates import Updates, find_updates, per_update
from engine.errors import TokenjouleError, UsageError

CHANNELS = ("instant", "draw", "counter")  # in the order of preference
_FEW_MARKS = 2


@dataclass(frozen=True, slots=True, eq=False)
class PowerRecording:
    """What a file holds, times in s and rising, nothing in it that is not finite.

    `channels`: (times, values) of each channel that has any: W, of the counter J. `marks_s`: when the load
    was switched, on first. `notes`: what had to be put in order or left out, one line each.
    """

    path: Path
    channels: Mapping[str, tuple[Array, Array]]
    meter: PowerTrace | None
    marks_s: Array
    gpu: str = ""
    uuid: str = ""
    driver: str = ""
    notes: list[str] = field(default_factory=list)

    def channel(self, name: str | None) -> str:
        """`name` if the recording has it, the best that it has for None. Raises `UsageError`."""
        if name is None:
            return next(channel for channel in CHANNELS if channel in self.channels)
        if name not in self.channels:
            raise UsageError(f"{self.path}: channel {name!r} holds no values, {self._known()} does")
        return name

    def updates(self, channel: str) -> Updates:
        """The sensor's updates in one channel; of a counter, the mean power between two of them.

        Raises `ValueError` where the log does not show them.
        """
        updates = find_updates(*self.channels[channel])
        return per_update(updates) if channel == "counter" else updates

    def load(self) -> PowerTrace | None:
        """The load as 0 and 1; None without two marks."""
        if len(self.marks_s) < _FEW_MARKS:
            return None
        return PowerTrace.from_marks(self.marks_s)

    def _known(self) -> str:
        return " or ".join(repr(channel) for channel in CHANNELS if channel in self.channels)


def read_recording(path: Path) -> PowerRecording:
    """The recording in a file.

    Raises `UsageError` for a file that cannot be read, `TokenjouleError` for one that holds no sensor log or
    whose arrays do not fit together.
    """
    return recording_of(path, _arrays(path))


def recording_of(path: Path, arrays: Mapping[str, Any]) -> PowerRecording:
    """The recording in arrays as a file holds them; `path` names it. Raises `TokenjouleError`."""
    notes: list[str] = []
    channels = {}
    for channel in ("draw", "instant"):
        series = _series(path, arrays, "sensor_t_ms", f"sensor_{channel}_w", notes)
        if series:
            channels[channel] = (series[0] / 1e3, series[1])
    counter = _series(path, arrays, "time_s", "energy_j", notes)
    if counter:
        channels["counter"] = counter
    if not channels:
        raise TokenjouleError(
            f"{path}: no sensor log: sensor_t_ms with sensor_draw_w or sensor_instant_w, 2 values or more"
        )
    meter = _series(path, arrays, "meter_t_ms", "meter_power_w", notes)
    marks_s = _row(path, arrays, "load_mark_t_ms") / 1e3 if "load_mark_t_ms" in arrays else np.array([])
    return PowerRecording(
        path=path,
        channels=channels,
        meter=PowerTrace.from_samples(meter[0] / 1e3, meter[1]) if meter else None,
        marks_s=np.unique(marks_s[np.isfinite(marks_s)]),
        notes=notes,
        **{name: _text(arrays, name) for name in ("gpu", "uuid", "driver")},
    )


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UsageError(f"cannot read the recording {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile have a dozen exceptions for a damaged archive
        raise TokenjouleError(f"{path}: not a readable .npz archive: {error}") from error


def _series(
    path: Path, arrays: Mapping[str, Any], times: str, values: str, notes: list[str]
) -> tuple[Array, Array] | None:
    """Two rows as rising times and finite values, None where fewer than two are left."""
    if times not in arrays or values not in arrays:
        return None
    time, value = _row(path, arrays, times), _row(path, arrays, values)
    if len(time) != len(value):
        raise TokenjouleError(f"{path}: {times} has {len(time)} values, {values} has {len(value)}")
    finite = np.isfinite(time) & np.isfinite(value)
    order = np.argsort(time[finite], kind="stable")
    time, value = time[finite][order], value[finite][order]
    last = np.append(np.diff(time) > 0, True)[: len(time)]  # of equal times the later entry counts
    told = (
        (f"{len(finite) - int(finite.sum())} entries that are no number left out", not finite.all()),
        ("put into the order of time", bool((np.diff(order) < 0).any())),
        (f"{len(last) - int(last.sum())} entries of a repeated time left out", not last.all()),
    )
    if not finite.any():
        return None
    notes += [f"{values}: {what}" for what, happened in told if happened]
    return (time[last], value[last]) if last.sum() >= 2 else None


def _row(path: Path, arrays: Mapping[str, Any], name: str) -> Array:
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise TokenjouleError(f"{path}: {name} must be one row of numbers, it is {array.dtype}{array.shape}")
    return np.asarray(array, dtype=np.float64)


def _text(arrays: Mapping[str, Any], name: str) -> str:
    return str(arrays[name]) if name in arrays and arrays[name].dtype.kind == "U" else ""
