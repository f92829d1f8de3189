"""A power sensor as a model: what it shows of a true power, and the file that keeps it.

A reading that appears at time t shows gain · P̄ + offset, where P̄ is the true power as a filter of first
order with time constant tau leaves it, averaged over [t - lag - boxcar, t - lag]; the reading then stands
for one period. tau holds everything of first order between load and reading, in the board's supply or in
the sensor: a reading cannot tell them apart. Fitting is `sensor_fit`'s.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.energy.meter import Sensor
from engine.energy.power_trace import Array, PowerTrace, Smoothed
from engine.errors import UsageError

SCHEMA = "tokenjoule.sensor/1"


@dataclass(frozen=True, slots=True)
class SensorOrigin:
    """Which sensor this is and where its figures come from; empty where it is not known.

    `channel`: draw, instant or counter. `against`: what it was fitted to: an external meter, or the times
    of the load. `date`: ISO 8601, of the fit.
    """

    gpu: str = ""
    uuid: str = ""
    driver: str = ""
    channel: str = ""
    against: str = ""
    recording: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class SensorModel:
    """`lag_s` may be a little negative: it holds the offset between the clocks of the load and the log.

    `gain` and `offset_w` are None where no external meter has told them; 1 and 0 then stand in. Raises
    `ValueError` for a value that makes no sense.
    """

    period_s: float
    lag_s: float
    boxcar_s: float = 0.0
    tau_s: float = 0.0
    gain: float | None = None
    offset_w: float | None = None
    resolution_w: float = 0.0
    origin: SensorOrigin = field(default_factory=SensorOrigin)

    def __post_init__(self) -> None:
        for name, value in self._numbers().items():
            if value is None and name in ("gain", "offset_w"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            if value < 0 and name not in ("lag_s", "offset_w"):
                raise ValueError(f"{name} must not be negative, got {value!r}")
        if self.period_s == 0 or self.gain == 0:
            raise ValueError("neither period_s nor gain may be 0")
        if (self.gain is None) != (self.offset_w is None):
            raise ValueError("gain and offset_w are known together or not at all")

    @property
    def window_s(self) -> float:
        """Width of the boxcar that averages as much as boxcar and tau together: 1 / ∫h², h their kernel.

        `boxcar_s` where tau is 0, 2·tau where there is no boxcar.
        """
        return averaging_s(self.boxcar_s, self.tau_s)

    @property
    def delay_s(self) -> float:
        """How old, on average, the power is that a reading shows when it appears."""
        return self.lag_s + self.boxcar_s / 2 + self.tau_s

    @property
    def boxcar_lag_s(self) -> float:
        """The lag of a plain boxcar of `window_s` with the same `delay_s`."""
        return self.delay_s - self.window_s / 2

    @property
    def duty(self) -> float:
        """The share of the time that its averaging covers, 1 at most."""
        return min(self.window_s / self.period_s, 1.0)

    def averaged(self, trace: PowerTrace, times_s: Array) -> Array:
        """P̄ of readings that appear at `times_s`: gain and offset are left out."""
        return Smoothed(trace, self.tau_s).mean(times_s - self.lag_s, self.boxcar_s)

    def shown(self, trace: PowerTrace, times_s: Array) -> Array:
        """The readings (n,) in W that appear at `times_s`, rounded to the resolution."""
        readings_w = (self.gain or 1.0) * self.averaged(trace, times_s) + (self.offset_w or 0.0)
        if self.resolution_w:
            readings_w = np.round(readings_w / self.resolution_w) * self.resolution_w
        return readings_w

    def true_w(self, readings_w: Array) -> Array:
        """P̄ from readings: gain and offset taken off."""
        return (readings_w - (self.offset_w or 0.0)) / (self.gain or 1.0)

    def sensor(self, meter: Sensor) -> Sensor:
        """What a meter says of its sensor, with period, lag, boxcar and tau of this model in it."""
        return replace(
            meter, period_s=self.period_s, lag_s=self.lag_s, window_s=self.boxcar_s, tau_s=self.tau_s
        )

    def to_json(self) -> dict[str, Any]:
        """One flat object, times in ms; `origin` is an object in it."""
        known = {name: _shown(name, value) for name, value in self._numbers().items()}
        return {"schema": SCHEMA, **{_json_name(name): v for name, v in known.items()}} | {
            "origin": asdict(self.origin)
        }

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The model of an object as `to_json` or `bench.sensor --json` makes it (there it is `sensor`).

        An object with `window_ms` instead of `boxcar_ms` and `tau_ms` is a plain boxcar; there, and only
        there, keys of other names are passed over. Raises `ValueError` for what is missing, unknown or bad.
        """
        if not isinstance(content, Mapping):
            raise ValueError(f"expected one JSON object, got {type(content).__name__}")
        if "sensor" in content:
            if content["sensor"] is None:
                raise ValueError("it holds no sensor: its lag was not identifiable")
            return cls.from_json(content["sensor"])
        given = dict(content)
        if given.pop("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        names = {_json_name(f.name): f.name for f in fields(cls) if f.name != "origin"}
        if "window_ms" in given and "boxcar_ms" not in given:
            given = {"boxcar_ms": given["window_ms"]} | {k: v for k, v in given.items() if k in names}
            given.pop("tau_ms", None)
        origin = given.pop("origin", {})
        missing = [name for name in ("period_ms", "lag_ms", "boxcar_ms") if given.get(name) is None]
        unknown = sorted(set(given) - set(names))
        if missing or unknown:
            raise ValueError(f"missing: {', '.join(missing) or 'nothing'}; unknown: {', '.join(unknown)}")
        values = {names[key]: _read(key, value) for key, value in given.items()}
        return cls(**values, origin=_origin(origin))

    def save(self, path: Path) -> None:
        """Write the model to a file. Raises `UsageError` where it cannot be written."""
        try:
            path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model in a file. Raises `UsageError` of one line for a file that holds none."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(f"cannot read the sensor {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is no sensor profile: {error}") from error

    def _numbers(self) -> dict[str, float | None]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "origin"}


def averaging_s(boxcar_s: float, tau_s: float) -> float:
    """Width of the boxcar that averages as much as a boxcar behind a filter of first order: 1 / ∫h²."""
    if boxcar_s == 0:
        return 2 * tau_s
    ratio = tau_s / boxcar_s
    if ratio > 1e3:  # the closed form loses its digits here, and tau is all there is
        return 2 * tau_s
    return boxcar_s / (1 + ratio * math.expm1(-1 / ratio)) if ratio > 0 else boxcar_s


def _json_name(name: str) -> str:
    return name.removesuffix("_s") + "_ms" if name.endswith("_s") else name


def _shown(name: str, value: float | None) -> float | None:
    return value * 1e3 if value is not None and name.endswith("_s") else value


def _read(name: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not number:
        raise ValueError(f"{name} must be a number, got {value!r}")
    return value / 1e3 if number and name.endswith("_ms") else value


def _origin(given: object) -> SensorOrigin:
    known = {f.name for f in fields(SensorOrigin)}
    if not isinstance(given, Mapping) or not set(given) <= known:
        raise ValueError(f"origin must be an object of {', '.join(sorted(known))}")
    if not all(isinstance(value, str) for value in given.values()):
        raise ValueError("the origin's values must be strings")
    return SensorOrigin(**given)
