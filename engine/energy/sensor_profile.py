"""Sensor profiles kept per GPU and driver: what `bench.sensor` found, for the meters to start from.

One file per channel, `sensors/UUID.CHANNEL.json` in the cache directory, of the schema `tokenjoule.sensor/1`.
A profile of another GPU or driver is not used, and whoever asked is told.
"""

import re
from dataclasses import replace
from pathlib import Path

from engine.cache_dir import cache_dir
from engine.energy.meter import Sensor
from engine.energy.sensor_model import SensorModel
from engine.errors import TokenjouleError, UsageError

# A counter whose mean power over a tick averages over less than this share of the tick saw only samples.
_WHOLE = 0.75
# A fit to readings polled every millisecond tells the lag no better: bench/sensor_live.py.
_LAG_SD_S = 0.0005


def profile_path(uuid: str, channel: str) -> Path:
    """Where the profile of that GPU's channel is kept. Raises `ValueError` for a UUID that names no file."""
    if not re.fullmatch(r"[\w-]+", uuid):
        raise ValueError(f"a UUID has letters, digits and hyphens only, got {uuid!r}")
    return cache_dir() / "sensors" / f"{uuid}.{channel}.json"


def save_profile(model: SensorModel) -> Path:
    """Keep a fitted sensor for the meters of its GPU; returns the file.

    Raises `ValueError` for a sensor of no named GPU, `TokenjouleError` where it cannot be written.
    """
    path = profile_path(model.origin.uuid, model.origin.channel)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TokenjouleError(f"cannot make {path.parent}: {error.strerror}") from error
    model.save(path)
    return path


def find_profile(uuid: str, driver: str, channel: str) -> tuple[SensorModel | None, str]:
    """(the sensor of that channel, one line on what was found or why it is not used)."""
    path = profile_path(uuid, channel)
    if not path.exists():
        return None, (
            "no sensor profile of this GPU, so no intervals of phases: python -m bench.sensor makes one"
        )
    try:
        model = SensorModel.load(path)
    except UsageError as error:
        return None, f"sensor profile not used: {error}"
    origin = model.origin
    if (origin.uuid, origin.channel) != (uuid, channel):
        return None, f"sensor profile not used: {path.name} is of {origin.uuid} {origin.channel}"
    if origin.driver != driver:
        return None, f"sensor profile not used: it was made with driver {origin.driver}, this is {driver}"
    return model, f"sensor profile of {origin.date or 'an unknown date'}"


def counter_sensor(model: SensorModel, meter: Sensor) -> Sensor:
    """What a profile of channel `counter` says of the driver's energy counter.

    Its readings are mean powers between two changes. Where they average over the whole of that time, and a
    window of the sensor besides, the counter integrates; where over a part only, it samples.
    """
    width_s = model.boxcar_s
    if model.duty < _WHOLE:
        return power_sensor(model, meter)
    window_s = max(width_s - model.period_s, 0.0)
    lag_s = model.lag_s + (width_s - model.period_s - window_s) / 2  # a reading is as old as before
    return replace(_timed(model, meter), lag_s=lag_s, window_s=window_s)


def power_sensor(model: SensorModel, meter: Sensor) -> Sensor:
    """What a profile of a power channel says of a meter that multiplies each new power by the time since."""
    return replace(_timed(model, meter), sampled=True)


def _timed(model: SensorModel, meter: Sensor) -> Sensor:
    origin = f"profile of {model.origin.recording or 'a recording'}, {model.origin.date}".rstrip(", ")
    return replace(model.sensor(meter), lag_sd_s=_LAG_SD_S, origin=origin)
