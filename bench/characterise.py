"""From a recording to what is known of its sensor: the fit, its check, and the joules it makes of the load.

Whatever cannot be said is None, and `missing` says why, field by field.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from engine.energy.phase_energy import by_model, by_trace, naive
from engine.energy.power_recording import PowerRecording
from engine.energy.power_trace import Array, PowerTrace
from engine.energy.sensor_fit import SensorFit, fit_sensor, held_out, usable
from engine.energy.sensor_model import SensorModel, SensorOrigin
from engine.energy.sensor_updates import Updates

SCHEMA = "tokenjoule.sensor-report/1"
_SETTLE_S = 0.1  # of the meter's two ends, whose mean continues the trace
_BEYOND_S = 30.0  # beyond every window that is searched
_FITTED = (
    "window_ms",
    "lag_ms",
    "tau_ms",
    "duty",
    "gain",
    "offset_w",
    "rmse_w",
    "held_out_rmse_w",
    "noise_w",
)
_ENERGIES = ("load_energy_error", "idle_energy_error")
_NAIVE = ("naive_load_energy_error", "naive_idle_energy_error")


@dataclass(slots=True)
class Characterisation:
    """What one channel of a recording says of its sensor.

    `figures`: by name as in the JSON, None where not known. `identifiable`: whether the lag is; None where
    the sensor was given and nothing was fitted. `model`: the sensor, fitted or given; None where the lag is
    not identifiable. `trace`: the true power as far as it was recorded, or the load as 0 and 1. `updates`:
    those that were compared with it.
    """

    recording: PowerRecording
    channel: str
    against: str | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    identifiable: bool | None = False
    reason: str | None = None
    model: SensorModel | None = None
    fit: SensorFit | None = None
    trace: PowerTrace | None = None
    updates: Updates | None = None

    def lacks(self, names: tuple[str, ...], reason: str) -> None:
        """These fields are None for this reason, unless they are known or lack a reason already."""
        for name in names:
            if self.figures.setdefault(name, None) is None:
                self.missing.setdefault(name, reason)

    def to_json(self) -> dict[str, Any]:
        """The report; `sensor` in it is what `--sensor` reads."""
        ranges: dict[str, Any] = {"lag_range_ms": None, "window_range_ms": None}
        if self.fit is not None:
            ranges["lag_range_ms"] = [value * 1e3 for value in self.fit.lag_range_s]
            ranges["window_range_ms"] = [value * 1e3 for value in self.fit.window_range_s]
        return {
            "schema": SCHEMA,
            "recording": self.recording.path.name,
            "channel": self.channel,
            "against": self.against,
            "identifiable": self.identifiable,
            "reason": self.reason,
            **self.figures,
            **ranges,
            "updates": len(self.updates.times_s) if self.updates else 0,
            "missing": self.missing,
            "notes": self.recording.notes,
            "sensor": self.model.to_json() if self.model else None,
        }

    def shown(self, times_s: Array) -> Array | None:
        """The readings that the model, fitted or given, makes of the true power; None without either."""
        model = self.fit or self.model
        return None if self.trace is None or model is None else model.shown(self.trace, times_s)


def characterise(
    recording: PowerRecording, channel: str | None, given: SensorModel | None = None
) -> Characterisation:
    """All that one channel says; with a `given` sensor nothing is fitted, only checked.

    Raises `UsageError` for a channel without values.
    """
    found = Characterisation(recording, recording.channel(channel))
    try:
        updates = recording.updates(found.channel)
    except ValueError as error:
        found.reason = str(error)
        found.lacks(("period_ms", "resolution_w", "poll_ms", *_FITTED, *_ENERGIES, *_NAIVE), str(error))
        return found
    found.figures |= {
        "period_ms": updates.period_s * 1e3,
        "poll_ms": updates.poll_s * 1e3,
        "resolution_w": updates.resolution,
    }
    found.updates = updates
    if recording.meter is not None:
        found.against = "external meter"
        found.updates = usable(recording.meter, updates)
        found.trace = recording.meter.widened(_BEYOND_S, _SETTLE_S)
    elif recording.load() is not None:
        found.against = "switching of the load"
        found.trace = recording.load()
    if given is not None:
        _check(found, given)
    else:
        _fit(found)
    _energies(found, updates)
    return found


def _fit(found: Characterisation) -> None:
    if found.trace is None or found.updates is None:
        found.reason = (
            "the recording has neither a meter's power nor the times at which the load was switched"
        )
        found.lacks(_FITTED, found.reason)
        return
    try:
        fit = fit_sensor(found.trace, found.updates)
    except ValueError as error:
        found.reason = str(error)
        found.lacks(_FITTED, found.reason)
        return
    found.fit, found.reason, found.identifiable = fit, fit.refusal, fit.refusal is None
    figures = found.figures
    figures["rmse_w"] = fit.rmse_w
    if not fit.explained:
        found.lacks(_FITTED, fit.refusal or "")
        return
    measured = found.against == "external meter"
    model = SensorModel(
        period_s=found.updates.period_s,
        lag_s=fit.lag_s,
        boxcar_s=fit.kernel.boxcar_s,
        tau_s=fit.kernel.tau_s,
        gain=fit.gain if measured else None,
        offset_w=fit.offset_w if measured else None,
        resolution_w=found.updates.resolution,
        origin=_origin(found),
    )
    left_w = found.updates.readings - fit.shown(found.trace, found.updates.times_s)
    figures["noise_w"] = float(np.median(np.abs(np.diff(left_w)))) * 1.4826 / 2**0.5
    figures["gain"], figures["offset_w"] = model.gain, model.offset_w
    if fit.window_known:
        figures["window_ms"], figures["duty"] = model.window_s * 1e3, model.duty
    if fit.tau_known:
        figures["tau_ms"] = model.tau_s * 1e3
    if found.identifiable:
        figures["lag_ms"], found.model = model.boxcar_lag_s * 1e3, model
    low_s, high_s = fit.window_range_s
    found.lacks(("lag_ms",), fit.refusal or "")
    found.lacks(
        ("window_ms", "duty"),
        f"windows from {low_s * 1e3:.0f} to {high_s * 1e3:.0f} ms leave nearly the same residual",
    )
    found.lacks(("tau_ms",), "a plain boxcar leaves nearly the same residual")
    found.lacks(("gain", "offset_w"), "there is no external meter in the recording")
    try:
        figures["held_out_rmse_w"] = held_out(found.trace, found.updates)
    except ValueError as error:
        found.lacks(("held_out_rmse_w",), str(error))


def _check(found: Characterisation, given: SensorModel) -> None:
    found.identifiable, found.model = None, given
    found.reason = "the sensor was given, nothing was fitted"
    found.figures |= {
        "period_ms": given.period_s * 1e3,
        "window_ms": given.window_s * 1e3,
        "lag_ms": given.boxcar_lag_s * 1e3,
        "tau_ms": given.tau_s * 1e3,
        "duty": given.duty,
        "gain": given.gain,
        "offset_w": given.offset_w,
        "resolution_w": given.resolution_w,
    }
    found.lacks(("gain", "offset_w"), "the given sensor was not fitted to an external meter")
    if found.against != "external meter":
        found.lacks(_FITTED, "there is no external meter in the recording to check against")
    elif given.gain is None:
        found.lacks(_FITTED, "the given sensor has no gain to check against the external meter")
    elif found.trace is not None and found.updates is not None and len(found.updates.times_s) > 1:
        left_w = found.updates.readings - given.shown(found.trace, found.updates.times_s)
        rmse_w = float(np.sqrt(np.mean(left_w**2)))
        noise_w = float(np.median(np.abs(np.diff(left_w)))) * 1.4826 / 2**0.5
        # No reading of this recording was fitted: all of it is held out.
        found.figures |= {"rmse_w": rmse_w, "held_out_rmse_w": rmse_w, "noise_w": noise_w}
    found.lacks(_FITTED, "the recording is too short to compare anything")


def _energies(found: Characterisation, updates: Updates) -> None:
    """Errors of the phases' energies, as fractions of the meter's: the model's account and the naive one."""
    recording, marks_s = found.recording, found.recording.marks_s
    meter = recording.meter
    if meter is None or len(marks_s) < 2:
        lack = "external meter" if meter is None else "load marks"
        found.lacks(_ENERGIES + _NAIVE, f"the recording has no {lack}")
        return
    if marks_s[0] < meter.start_s or marks_s[-1] > meter.end_s:
        found.lacks(_ENERGIES + _NAIVE, "the meter does not cover the time between the load's marks")
        return
    truth = by_trace(meter, marks_s)
    if found.channel == "counter":
        found.lacks(_NAIVE, "the naive account is of a channel of power")
    else:
        errors = naive(*recording.channels[found.channel], marks_s).errors(truth)
        found.figures.update(zip(_NAIVE, errors, strict=True))
    if found.model is None:
        found.lacks(_ENERGIES, found.reason or "")
    else:
        model = found.model
        try:
            errors = by_model(model, updates, marks_s).errors(truth)
            found.figures.update(zip(_ENERGIES, errors, strict=True))
        except ValueError as error:
            found.lacks(_ENERGIES, str(error))
    found.lacks(_ENERGIES + _NAIVE, "the load has no idle phase between its marks")


def _origin(found: Characterisation) -> SensorOrigin:
    recording = found.recording
    return SensorOrigin(
        gpu=recording.gpu,
        uuid=recording.uuid,
        driver=recording.driver,
        channel=found.channel,
        against=found.against or "",
        recording=recording.path.name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
