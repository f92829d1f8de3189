"""The sensor model: what it shows against brute force, and the file that keeps it."""

import json
import math

import numpy as np
import pytest

from engine.energy.meter import Sensor
from engine.energy.power_trace import PowerTrace
from engine.energy.sensor_model import SensorModel, SensorOrigin, averaging_s
from engine.errors import UsageError
from tests.energy.power_simulation import recording, wave

MODEL = SensorModel(
    period_s=0.1012,
    lag_s=-0.0043,
    boxcar_s=0.01,
    tau_s=0.0123,
    gain=0.959,
    offset_w=-2.3,
    resolution_w=0.01,
    origin=SensorOrigin(
        "A GPU", "GPU-1", "550.1", "instant", "external meter", "a.npz", "2026-11-22T00:00:00Z"
    ),
)


@pytest.mark.parametrize(
    ("lag_s", "boxcar_s", "tau_s"),
    [(0.02, 0.025, 0.0), (-0.01, 0.1, 0.0), (0.03, 0.0, 0.02), (0.0, 0.05, 0.01)],
)
def test_readings_are_those_of_a_brute_force_sensor(lag_s, boxcar_s, tau_s):
    switches_s = wave(0.15, 6, dither=0.3)
    log = recording(switches_s, end_s=9, lag_s=lag_s, boxcar_s=boxcar_s, tau_s=tau_s, noise_w=0, poll_s=0.001)
    model = SensorModel(0.1012, lag_s, boxcar_s, tau_s, gain=0.96, offset_w=-2.0, resolution_w=0.01)
    load = PowerTrace.from_marks(switches_s)
    trace = PowerTrace(load.edges_s, 65 + 130 * load.power_w)
    updates_s = np.arange(-1 + 0.037, 9, 0.1012)[12:-1]
    polled = np.searchsorted(log["sensor_t_ms"], updates_s * 1e3 + 5)
    # The raster is 0.1 ms: 130 W of a kernel as sharp as 10 ms are 1.3 W.
    allowed_w = 130 * 1.5e-4 / max(boxcar_s, tau_s)
    assert model.shown(trace, updates_s) == pytest.approx(log["sensor_instant_w"][polled], abs=allowed_w)


def test_a_reading_is_rounded_to_the_resolution():
    trace = PowerTrace(np.array([0.0, 1.0]), np.array([100.0]))
    times_s = np.array([0.5])
    assert SensorModel(0.1, 0.0, gain=1.0, offset_w=0.37, resolution_w=0.25).shown(trace, times_s) == 100.25
    assert SensorModel(0.1, 0.0, gain=1.0, offset_w=0.37).shown(trace, times_s) == pytest.approx(100.37)
    assert SensorModel(0.1, 0.0).shown(trace, times_s) == 100.0


def test_gain_and_offset_are_taken_off_again():
    assert MODEL.true_w(0.959 * np.array([50.0, 400.0]) - 2.3) == pytest.approx([50.0, 400.0])


@pytest.mark.parametrize("boxcar_s", [0.0, 1e-6, 0.003, 0.1, 2.0])
@pytest.mark.parametrize("tau_s", [0.0, 1e-6, 0.012, 0.5])
def test_the_window_averages_as_much_as_the_kernel(boxcar_s, tau_s):
    """1/∫h², with h the boxcar's and the filter's step responses put together, summed in small steps."""
    if boxcar_s == tau_s == 0.0:
        assert averaging_s(0.0, 0.0) == 0.0
        return
    length_s = boxcar_s + 30 * tau_s
    step_s = length_s / 400_000
    at_s = (np.arange(400_000) + 0.5) * step_s
    if boxcar_s == 0:
        kernel = np.exp(-at_s / tau_s) / tau_s
    elif tau_s == 0:
        kernel = (at_s < boxcar_s) / boxcar_s
    else:
        rise = 1 - np.exp(-at_s / tau_s)
        kernel = (
            rise - np.where(at_s > boxcar_s, 1 - np.exp(-np.abs(at_s - boxcar_s) / tau_s), 0)
        ) / boxcar_s
    assert averaging_s(boxcar_s, tau_s) == pytest.approx(1 / ((kernel**2).sum() * step_s), rel=2e-3)


def test_a_meter_s_sensor_gets_period_lag_and_window():
    meter = Sensor(period_s=None, lag_s=None, window_s=None, resolution_uj=1000, gain_error=0.05, peak_w=400)
    sensor = MODEL.sensor(meter)
    assert sensor.period_s == MODEL.period_s
    assert sensor.delay_s == pytest.approx(MODEL.lag_s + 0.005 + 0.0123)
    assert (sensor.lag_s, sensor.window_s, sensor.tau_s) == (MODEL.lag_s, MODEL.boxcar_s, MODEL.tau_s)
    assert (sensor.resolution_uj, sensor.gain_error, sensor.peak_w) == (1000, 0.05, 400)
    assert sensor.has_intervals


def test_duty_is_one_at_most():
    assert SensorModel(0.1, 0.0, boxcar_s=0.025).duty == 0.25
    assert SensorModel(0.1, 0.0, boxcar_s=1.0).duty == 1.0


def test_a_file_gives_back_what_was_saved(tmp_path):
    MODEL.save(tmp_path / "sensor.json")
    loaded = SensorModel.load(tmp_path / "sensor.json")
    assert loaded.origin == MODEL.origin
    for name, value in MODEL._numbers().items():
        assert getattr(loaded, name) == pytest.approx(value, rel=1e-12), name
    content = json.loads((tmp_path / "sensor.json").read_text())
    assert content["lag_ms"] == pytest.approx(-4.3)
    assert content["boxcar_ms"] == pytest.approx(10)
    assert content["gain"] == 0.959


def test_an_unknown_gain_stays_unknown():
    assert SensorModel.from_json(SensorModel(0.1, 0.0).to_json()).gain is None


def test_a_report_is_read_by_the_sensor_in_it():
    assert SensorModel.from_json({"window_ms": 9, "sensor": MODEL.to_json()}).delay_s == pytest.approx(
        MODEL.delay_s
    )
    with pytest.raises(ValueError, match="not identifiable"):
        SensorModel.from_json({"period_ms": 100, "sensor": None})


def test_plain_figures_are_a_boxcar():
    plain = {"period_ms": 100, "window_ms": 25, "lag_ms": 5, "gain": 0.95, "offset_w": -2, "rmse_w": 0.3}
    model = SensorModel.from_json({**plain, "tau_ms": 3.0, "identifiable": True})
    assert (model.boxcar_s, model.tau_s, model.lag_s, model.gain) == (0.025, 0.0, 0.005, 0.95)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lag_ms": None}, "missing: lag_ms"),
        ({"surprise": 1}, "unknown: surprise"),
        ({"schema": "tokenjoule.bench/1"}, "schema"),
        ({"period_ms": 0}, "may be 0"),
        ({"period_ms": -1}, "negative"),
        ({"tau_ms": math.nan}, "finite"),
        ({"gain": True}, "number"),
        ({"gain": "1"}, "number"),
        ({"gain": None}, "together"),
        ({"origin": {"place": "here"}}, "origin"),
        ({"origin": {"gpu": 3}}, "strings"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, change, words):
    path = tmp_path / "sensor.json"
    path.write_text(json.dumps(MODEL.to_json() | change))
    with pytest.raises(UsageError, match=words) as error:
        SensorModel.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[1]", "nonsense", '{"sensor": 3}'])
def test_what_is_no_profile_is_refused(tmp_path, content):
    path = tmp_path / "sensor.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="no sensor profile"):
        SensorModel.load(path)


def test_a_missing_file_and_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        SensorModel.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot write"):
        MODEL.save(tmp_path / "none" / "sensor.json")
