"""Profiles in the cache directory: found by their GPU and driver, refused for any other, and said so."""

import json
import sys
from dataclasses import replace

import pytest

from engine.energy.meter import Sensor
from engine.energy.nvml import NvmlCounterMeter, NvmlPowerMeter
from engine.energy.sensor_model import SensorModel, SensorOrigin
from engine.energy.sensor_profile import (
    counter_sensor,
    find_profile,
    power_sensor,
    profile_path,
    save_profile,
)
from engine.errors import TokenjouleError
from tests.energy.fake_nvml import UUID, FakeNvml

ORIGIN = SensorOrigin(
    "NVIDIA Pretend 9000", UUID, "999.99", "counter", "switching of the load", "", "2026-11-27"
)
METER = Sensor(period_s=None, lag_s=None, window_s=None, resolution_uj=1000, gain_error=0.05)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def driver(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def profile(channel: str = "counter", boxcar_s: float = 0.1, tau_s: float = 0.0) -> SensorModel:
    return SensorModel(0.1, 0.02, boxcar_s, tau_s, origin=replace(ORIGIN, channel=channel))


def test_a_profile_gives_the_counter_its_lag_and_window(driver, cache):
    path = save_profile(profile(boxcar_s=0.125))
    assert path == cache / "sensors" / f"{UUID}.counter.json"
    meter = NvmlCounterMeter(UUID)
    assert "sensor profile of 2026-11-27" in meter.note
    sensor = meter.sensor
    assert (sensor.period_s, sensor.sampled) == (0.1, False)
    assert sensor.window_s == pytest.approx(0.025), "its own tick is no window of the counter"
    assert sensor.lag_s == pytest.approx(0.02)
    assert sensor.lag_sd_s > 0
    assert "2026-11-27" in sensor.origin


def test_a_counter_that_averages_over_a_quarter_of_its_tick_samples():
    sensor = counter_sensor(profile(boxcar_s=0.025), METER)
    assert sensor.sampled
    assert (sensor.window_s, sensor.lag_s) == (0.025, 0.02)
    assert not sensor.has_intervals, "interpolation knows nothing of what was not seen"


def test_a_counter_a_little_narrower_than_its_tick_integrates_and_is_as_old():
    model = profile(boxcar_s=0.09)
    sensor = counter_sensor(model, METER)
    assert (sensor.sampled, sensor.window_s) == (False, 0.0)
    assert sensor.delay_s + model.period_s / 2 == pytest.approx(model.delay_s)


def test_power_of_a_profile_is_sampled(driver):
    save_profile(profile("instant", boxcar_s=0.0, tau_s=0.0123))
    meter = NvmlPowerMeter(UUID)
    assert meter.sensor.sampled
    assert (meter.sensor.tau_s, meter.sensor.window_s) == (0.0123, 0.0)
    assert "sensor profile of" in meter.note
    assert power_sensor(profile("draw", 1.0), METER).window_s == 1.0


def test_without_a_profile_the_meter_says_how_to_make_one(driver):
    meter = NvmlCounterMeter(UUID)
    assert "python -m bench.sensor" in meter.note
    assert meter.sensor.lag_s is None


def test_a_profile_of_another_driver_or_gpu_is_refused_and_said(driver, cache):
    path = save_profile(profile())
    driver.driver = "1000.1"
    meter = NvmlCounterMeter(UUID)
    assert meter.sensor.lag_s is None
    assert "made with driver 999.99, this is 1000.1" in meter.note
    other = json.loads(path.read_text())
    other["origin"]["uuid"] = "GPU-other"
    path.write_text(json.dumps(other))
    assert "is of GPU-other counter" in find_profile(UUID, "999.99", "counter")[1]
    path.write_text("{")
    model, why = find_profile(UUID, "999.99", "counter")
    assert model is None
    assert "is no sensor profile" in why


def test_a_profile_of_no_gpu_or_of_no_file_name_is_not_kept(cache):
    with pytest.raises(ValueError, match="letters"):
        save_profile(replace(profile(), origin=SensorOrigin()))
    with pytest.raises(ValueError, match="letters"):
        profile_path("../GPU", "counter")
    cache.write_text("a file stands where the directory should")
    with pytest.raises(TokenjouleError, match="cannot make"):
        save_profile(profile())


def test_other_processes_are_those_that_are_not_ours(driver, monkeypatch):
    meter = NvmlCounterMeter(UUID)
    assert meter.other_processes() == ()
    monkeypatch.setattr("os.getpid", lambda: 11)
    monkeypatch.setattr("engine.energy.nvml._torch_has_context", lambda: True)
    driver.pids = [12, 11]
    assert meter.other_processes() == (12,)
    driver.pids = [5001, 5002]  # numbered by the host, while we live in a container: one of them is us
    assert meter.other_processes() == (5001,)
    monkeypatch.setattr("engine.energy.nvml._torch_has_context", lambda: False)
    assert meter.other_processes() == (5001, 5002)
    driver.pids = None
    assert meter.other_processes() == ()
