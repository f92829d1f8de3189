"""Recordings played back, and files that are none."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.replay import ReplayMeter
from engine.energy.simulated import VirtualClock, load_profile
from engine.errors import MeterError, UsageError

LINES = [
    '{"event": "meter", "source": "nvml", "time_s": "not looked at"}',
    '{"event": "reading", "time_s": 100.0, "energy_uj": 5000, "before_s": 99.9}',
    "",
    '{"event": "token", "text": "é"}',
    '{"event": "reading", "time_s": 100.25, "energy_uj": 7000}',
    '{"event": "reading", "time_s": 100.5, "energy_uj": 7000}',
    '{"event": "reading", "time_s": 101, "energy_uj": 12345678901234567890}',
    '{"event": "reading", "time_s": 101.5, "energy_uj": 12345678901234567891}',
]


def recording(tmp_path, lines):
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_recording_stands_at_its_beginning_until_it_is_played(tmp_path):
    clock = VirtualClock()
    meter = ReplayMeter(recording(tmp_path, LINES), clock=clock)
    first = meter.read().energy_uj
    clock.sleep(1000.0)
    assert meter.read().energy_uj == first
    meter.play()
    clock.sleep(1000.0)
    with pytest.raises(MeterError, match="ended"):
        meter.read()


def test_jsonl_holds_between_changes_and_ends(tmp_path):
    clock = VirtualClock(7.0)
    meter = ReplayMeter(recording(tmp_path, LINES), clock=clock)
    clock.sleep(50.0)  # time before it is played is not part of it
    meter.play()
    meter.play()  # once is enough
    seen = []
    for elapsed_s in (0.0, 0.2, 0.25, 0.75, 1.0, 1.5):
        clock.jump(57.0 + elapsed_s)
        reading = meter.read()
        assert reading.time_s == 57.0 + elapsed_s
        seen.append(reading.energy_uj)
    assert seen == [5000, 5000, 7000, 7000, 12345678901234567890, 12345678901234567891]
    clock.jump(58.6)
    with pytest.raises(MeterError, match=r"the recording ended after 1\.5 s"):
        meter.read()
    assert (meter.name, meter.measured, meter.duration_s) == ("replay", False, 1.5)
    assert meter.sensor.period_s == 0.625  # changes at 0.25, 1.0 and 1.5 s
    assert "run.jsonl" in meter.note


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"event": "reading", "energy_uj": 8000}', "time_s must be a number, got None"),
        ('{"event": "reading", "time_s": NaN, "energy_uj": 8000}', "time_s must be a number, got nan"),
        ('{"event": "reading", "time_s": 102, "energy_uj": 8000.5}', "must be a whole number, got 8000.5"),
        ('{"event": "reading", "time_s": 102, "energy_uj": true}', "must be a whole number, got True"),
        ('{"event": "reading", "time_s": 99, "energy_uj": 8000}', "time_s goes back from 100.0 to 99"),
        ('{"event": "reading", "time_s": 102, "energy_uj": 4999}', "energy_uj goes back from 5000 to 4999"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    with pytest.raises(MeterError) as error:
        ReplayMeter(recording(tmp_path, [*LINES[:2], line, *LINES[4:]]))
    text = str(error.value)
    assert "run.jsonl:3: " in text
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.npz"])
def test_a_file_that_is_not_there_is_wrong_usage_as_it_is_for_a_simulation(tmp_path, name):
    with pytest.raises(UsageError, match=r"cannot read the recording .*No such file"):
        ReplayMeter(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        load_profile(str(tmp_path / name))


def test_files_that_are_no_recording(tmp_path):
    with pytest.raises(MeterError, match="two readings or more, this one has 1"):
        ReplayMeter(recording(tmp_path, LINES[:2]))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\x93NUMPY\xff\xfe\n")
    with pytest.raises(MeterError, match=r"binary\.jsonl:1: not JSON"):
        ReplayMeter(binary)
    with pytest.raises(UsageError, match="cannot read"):
        ReplayMeter(tmp_path)


def save(tmp_path, **arrays):
    path = tmp_path / "run.npz"
    np.savez(path, **arrays)
    return path


def test_npz_energy(tmp_path):
    clock = VirtualClock()
    path = save(tmp_path, time_s=[2.0, 2.5, 3.0], energy_j=[10.0, 10.5, 12.0000001], other=["x"])
    meter = ReplayMeter(path, clock=clock)
    meter.play()
    seen = []
    for elapsed_s in (0.0, 0.5, 1.0):
        clock.jump(elapsed_s)
        seen.append(meter.read().energy_uj)
    assert seen == [10_000_000, 10_500_000, 12_000_000]


def test_npz_power_is_integrated(tmp_path):
    clock = VirtualClock()
    path = save(tmp_path, time_s=np.float32([0.0, 0.5, 1.5]), power_w=np.array([100, 300, 0], dtype=np.int32))
    meter = ReplayMeter(path, clock=clock)
    meter.play()
    seen = []
    for elapsed_s in (0.0, 0.5, 1.5):
        clock.jump(elapsed_s)
        seen.append(meter.read().energy_uj)
    assert seen == [0, 100_000_000, 250_000_000]


def test_a_log_of_the_sensors_power_alone_is_integrated(tmp_path):
    """In the arrays that `bench.sensor` reads; a driver without instant power leaves NaN there."""
    draw_w, none_w = np.array([100.0, 300.0, 0.0]), np.full(3, np.nan)
    for instant_w, expected in ((none_w, [0, 100_000_000, 250_000_000]), (draw_w / 2, [0, 50e6, 125e6])):
        clock = VirtualClock()
        path = save(
            tmp_path, sensor_t_ms=[7000.0, 7500.0, 8500.0], sensor_draw_w=draw_w, sensor_instant_w=instant_w
        )
        meter = ReplayMeter(path, clock=clock)
        meter.play()
        seen = []
        for elapsed_s in (0.0, 0.5, 1.5):
            clock.jump(elapsed_s)
            seen.append(meter.read().energy_uj)
        assert seen == expected


def test_a_real_log_of_power_plays_back(shared_data):
    path = shared_data / "data" / "gpu_power_traces" / "a100_pcie_step.npz"
    meter = ReplayMeter(path)
    with np.load(path) as archive:
        times_s, power_w = archive["sensor_t_ms"] / 1e3, archive["sensor_instant_w"].astype(float)
    assert meter.duration_s == pytest.approx(times_s[-1] - times_s[0])
    mean_w = np.diff(times_s) @ (power_w[1:] + power_w[:-1]) / 2 / meter.duration_s
    assert meter._energies_uj[-1] * 1e-6 / meter.duration_s == pytest.approx(mean_w, rel=1e-6)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"sensor_t_ms": [0.0, 1.0]}, "no sensor log"),
        ({"sensor_t_ms": [0.0, 1.0], "sensor_draw_w": [1.0, -1.0]}, "row 1: power_w is negative"),
        ({"time_s": [0.0, 1.0]}, "needs time_s and energy_j or power_w, has time_s"),
        ({"power_w": [0.0, 1.0]}, "needs time_s"),
        ({"time_s": [0.0, 1.0], "power_w": [1.0]}, "power_w must be a row of numbers as long as time_s"),
        ({"time_s": [[0.0], [1.0]], "power_w": [1.0, 1.0]}, "time_s must be a row"),
        ({"time_s": ["a", "b"], "power_w": [1.0, 1.0]}, "time_s must be a row of numbers"),
        ({"time_s": [0.0, 2.0, 1.0], "power_w": [1.0, 1.0, 1.0]}, "row 2: time_s goes back"),
        ({"time_s": [0.0, 1.0], "power_w": [1.0, -1.0]}, "row 1: power_w is negative"),
        ({"time_s": [0.0, 1.0], "energy_j": [1.0, 0.5]}, "row 1: energy_j goes back"),
        ({"time_s": [0.0, 1.0], "energy_j": [np.nan, 0.5]}, "row 0: energy_j is not finite"),
        ({"time_s": [0.0], "energy_j": [1.0]}, "two readings or more, this one has 1"),
        ({"time_s": [], "power_w": []}, "two readings or more, this one has 0"),
        ({"time_s": np.array([{}, {}]), "power_w": [1.0, 1.0]}, "not a readable .npz archive"),
    ],
)
def test_bad_npz(tmp_path, arrays, words):
    with pytest.raises(MeterError) as error:
        ReplayMeter(save(tmp_path, **arrays))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_npz(tmp_path):
    path = save(tmp_path, time_s=[0.0, 1.0], power_w=[1.0, 1.0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MeterError, match=r"not a readable \.npz archive"):
        ReplayMeter(path)


def test_a_flat_recording_has_no_known_period(tmp_path):
    path = save(tmp_path, time_s=[0.0, 1.0, 2.0], energy_j=[1.0, 1.0, 1.0])
    assert ReplayMeter(path).sensor.period_s is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**9)), min_size=2, max_size=40))
def test_what_was_recorded_is_what_is_read(tmp_path_factory, steps):
    """Read at its own times (binary fractions, so that nothing rounds), a recording gives itself."""
    times_s = np.cumsum([round(step_s * 1024) / 1024 for step_s, _ in steps]).tolist()
    energies_uj = np.cumsum([step_uj for _, step_uj in steps]).tolist()
    path = tmp_path_factory.mktemp("replay") / "run.jsonl"
    rows = [{"time_s": t, "energy_uj": e} for t, e in zip(times_s, energies_uj, strict=True)]
    path.write_text("".join(json.dumps({"event": "reading", **row}) + "\n" for row in rows))
    clock = VirtualClock()
    meter = ReplayMeter(path, clock=clock)
    meter.play()
    for index, time_s in enumerate(times_s):
        clock.jump(time_s - times_s[0])
        last_of_equal_times = max(i for i, other_s in enumerate(times_s) if other_s == times_s[index])
        assert meter.read().energy_uj == energies_uj[last_of_equal_times]
