"""Characterising a GPU that is not there: a pretended driver, a load that only tells the driver of itself."""

import json
import math
import sys
import threading
import time
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

from bench import sensor, sensor_live
from bench.characterise import characterise
from bench.sensor_live import Sampler, record, schedule
from engine.energy.meter import Sensor
from engine.energy.nvml import NvmlReadings
from engine.energy.power_recording import read_recording, recording_of
from engine.energy.replay import ReplayMeter
from engine.energy.sensor_profile import counter_sensor, find_profile
from engine.errors import MeterError
from tests.energy.fake_nvml import UUID, FakeNvml

PERIOD_S, WINDOW_S, LAG_S = 0.02, 0.01, 0.006
IDLE_MW, LOAD_MW = 70_000, 330_000


class Gpu(FakeNvml):
    """Draws one of two powers; shows a boxcar of them, late, every 20 ms; the counter misses nothing."""

    def __init__(self):
        super().__init__()
        self.start_s = time.monotonic()
        self.switches_s = []
        self.guard = threading.Lock()

    def switch(self):
        with self.guard:
            self.switches_s.append(time.monotonic())

    def energy_mj(self, time_s):
        """mJ up to a time, from an hour before the start."""
        with self.guard:
            edges_s = [self.start_s - 3600, *(s for s in self.switches_s if s < time_s), time_s]
        spans_s = np.diff(edges_s)
        return spans_s[::2].sum() * IDLE_MW + spans_s[1::2].sum() * LOAD_MW

    def update_s(self):
        return self.start_s + math.floor((time.monotonic() - self.start_s) / PERIOD_S) * PERIOD_S

    def nvmlDeviceGetFieldValues(self, handle, field_ids):
        end_s = self.update_s() - LAG_S
        self.instant_mw = round((self.energy_mj(end_s) - self.energy_mj(end_s - WINDOW_S)) / WINDOW_S)
        # The last digits of a real sensor are never quite the same.
        self.instant_mw += round(end_s / PERIOD_S) * 7919 % 400
        return super().nvmlDeviceGetFieldValues(handle, field_ids)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self.counter_mj = round(self.energy_mj(self.update_s()))
        return super().nvmlDeviceGetTotalEnergyConsumption(handle)


class PretendedLoad:
    def __init__(self, gpu):
        self.gpu = gpu

    def run(self, until_s):
        self.gpu.switch()
        time.sleep(max(until_s - time.monotonic(), 0))
        self.gpu.switch()


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    fake = Gpu()
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def short(*, wave_s):
    """Two steps and two waves of the real schedule: 3 s."""
    spans_s = schedule(wave_s=wave_s)
    waves = spans_s[2 * sensor_live.STEPS :]
    return [0.3, 0.25, 0.2, 0.3, *waves[:40], *waves[-12:]]


def test_a_sensor_is_characterised_through_the_driver(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(sensor_live, "uuid_of_cuda_device", lambda index: UUID)
    monkeypatch.setattr(sensor_live, "StreamingLoad", lambda device: PretendedLoad(gpu))
    monkeypatch.setattr(sensor_live, "schedule", short)
    monkeypatch.setattr(sensor_live, "IDLE_S", 0.3)
    path = tmp_path / "gpu.npz"
    status = sensor.main(["--record", str(path), "--save", str(tmp_path / "p.json"), "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "characterising NVIDIA Pretend 9000" in err
    assert found["period_ms"] == pytest.approx(PERIOD_S * 1e3, rel=0.02)
    # This runs in real time: a machine too busy to poll in time is refused a verdict, and told why.
    assert found["identifiable"] or found["reason"]
    assert status == (0 if found["identifiable"] else 1)
    if found["identifiable"]:
        # Half a poll of bias stays in the lag: the load's marks and the driver's reading are not one instant.
        assert found["lag_ms"] == pytest.approx(LAG_S * 1e3, abs=3)
        assert found["window_ms"] == pytest.approx(WINDOW_S * 1e3, abs=4)
    assert found["gain"] is found["load_energy_error"] is None
    assert found["missing"]["gain"] == "there is no external meter in the recording"
    if found["identifiable"]:
        origin = json.loads((tmp_path / "p.json").read_text())["origin"]
        assert (origin["uuid"], origin["driver"], origin["channel"]) == (UUID, "999.99", "instant")
    assert gpu.sessions == 0

    # What could be told was kept for the meters. The pretended counter misses nothing.
    counter = find_profile(UUID, "999.99", "counter")[0]
    assert (counter is None) == ("channel counter: no profile was kept" in err)
    if counter is not None:
        sensor_of_counter = counter_sensor(counter, Sensor())
        assert not sensor_of_counter.sampled
        assert sensor_of_counter.delay_s == pytest.approx(LAG_S, abs=0.008)

    # The file plays back, as a sensor log and as a counter.
    recording = read_recording(path)
    assert sorted(recording.channels) == ["counter", "draw", "instant"]
    counter = characterise(recording, "counter")
    assert counter.identifiable or counter.reason
    if counter.identifiable:
        assert counter.figures["window_ms"] == pytest.approx(PERIOD_S * 1e3, abs=4)
        assert counter.figures["duty"] == pytest.approx(1, abs=0.2)
    assert ReplayMeter(path).duration_s > 3


def test_the_real_schedule_is_short_and_locks_with_nothing():
    spans_s = schedule()
    assert len(spans_s) % 2 == 0  # it ends idle
    assert sum(schedule(wave_s=9.0)) + 2 * sensor_live.IDLE_S < 60, "what a lent GPU has time for"
    assert sum(spans_s) + 2 * sensor_live.IDLE_S < 150
    assert schedule() == spans_s != schedule(1)
    halves_s = np.array(spans_s[2 * sensor_live.STEPS :])
    assert halves_s.min() > 0.01
    for period_s in sensor_live.WAVES_S:
        for tick_s in (0.01, 0.02, 0.1):
            ratio = Fraction(period_s / tick_s).limit_denominator(5)
            assert abs(period_s / tick_s - ratio) > 0.003
    for one_s, other_s in combinations(sensor_live.WAVES_S, 2):
        assert abs(other_s / one_s - Fraction(other_s / one_s).limit_denominator(4)) > 0.005
    first = halves_s[: 2 * round(sensor_live.WAVE_S / sensor_live.WAVES_S[0])]
    assert first.std() / first.mean() == pytest.approx(sensor_live.DITHER / 3**0.5, rel=0.1)


def test_nvml_that_fails_on_the_way_is_one_line(gpu):
    readings = NvmlReadings(UUID)
    gpu.errors["nvmlDeviceGetPowerUsage"] = gpu.NVMLError("GPU is lost")
    with pytest.raises(MeterError, match="GPU is lost"):
        record(readings, PretendedLoad(gpu), [0.02, 0.02], idle_s=0.02)


class Nothing:
    name, uuid, driver = "a GPU", "GPU-1", ""

    def __init__(self, counter_j=None):
        self.counter = counter_j

    def instant_w(self):
        return None

    def draw_w(self):
        return None

    def counter_j(self):
        return self.counter

    def close(self):
        pass


def test_a_gpu_that_tells_nothing_is_refused(gpu):
    with pytest.raises(MeterError, match="neither its power nor an energy counter"):
        record(Nothing(), PretendedLoad(gpu), [0.02, 0.02], idle_s=0.02)


def test_a_gpu_with_a_counter_only_is_recorded(gpu, tmp_path):
    arrays = record(Nothing(7.0), PretendedLoad(gpu), [0.02, 0.02], idle_s=0.02)
    found = recording_of(tmp_path / "a.npz", arrays)
    assert list(found.channels) == ["counter"]
    assert len(found.marks_s) == 3


def test_the_sampler_ends_with_its_block(gpu):
    with Sampler(Nothing(1.0)) as sampler:
        time.sleep(0.05)
    count = len(sampler.rows())
    time.sleep(0.02)
    assert 0 < len(sampler.rows()) == count


def test_a_device_that_is_not_there_is_wrong_usage(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert sensor.main(["--device", "3"]) == 2
    assert "none is number 3" in capsys.readouterr().err


def test_the_streaming_load_comes_back_idle_and_on_time(monkeypatch):
    """On the CPU, where every launch is finished when it returns: only the loop is tested."""
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(sensor_live, "_BUFFER", 1 << 16)
    load = sensor_live.StreamingLoad(torch.device("cpu"))
    start_s, before = time.monotonic(), len(waits)
    load.run(start_s + 0.05)
    assert time.monotonic() - start_s >= 0.05
    assert len(waits) > before
