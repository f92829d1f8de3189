"""`python -m bench.sensor` on real recordings of an external meter beside the sensor, and on damaged ones."""

import json

import numpy as np
import pytest

from bench import sensor
from tests.energy.power_simulation import recording, wave

FIELDS = {
    *("period_ms", "window_ms", "lag_ms", "gain", "offset_w", "rmse_w", "held_out_rmse_w"),
    *("identifiable", "reason", "load_energy_error", "idle_energy_error"),
    *("naive_load_energy_error", "naive_idle_energy_error", "sensor", "missing", "notes", "channel"),
}
ENERGIES = ("load_energy_error", "idle_energy_error")


@pytest.fixture
def traces(shared_data):
    return shared_data / "data" / "gpu_power_traces"


@pytest.fixture
def run(capsys):
    """(exit status, the JSON object or None, stderr)."""

    def call(*arguments):
        status = sensor.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert out == "" or len(out.splitlines()) == 1
        return status, json.loads(out) if out else None, err

    return call


@pytest.fixture
def write(tmp_path):
    def call(arrays, name="a.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return call


@pytest.mark.parametrize(
    ("name", "channel", "rmse_w", "gain", "window_ms"),
    [
        ("a100_pcie_step", "instant", 1.5, 0.958, 25),
        ("a100_pcie_step", "draw", 1.5, 0.958, 25),
        ("rtx3090_step", "instant", 1.5, 0.951, 105),
        ("rtx4090_step", "draw", 3.0, 1.046, 105),
    ],
)
def test_a_real_step_is_reproduced(run, traces, name, channel, rmse_w, gain, window_ms):
    status, found, _ = run("--recording", traces / f"{name}.npz", "--channel", channel)
    assert status == 0
    assert set(found) >= FIELDS
    assert found["identifiable"] is True
    assert found["rmse_w"] < rmse_w * 0.6
    assert found["held_out_rmse_w"] <= rmse_w
    assert found["gain"] == pytest.approx(gain, abs=0.003)
    assert found["window_ms"] == pytest.approx(window_ms, abs=3)
    assert -15 < found["lag_ms"] < 5
    assert max(abs(found[name]) for name in ENERGIES) < 0.02


def test_a_free_lag_of_the_real_wave_is_refused(run, traces):
    for channel in ("draw", "instant"):
        _, found, _ = run("--recording", traces / "a100_pcie_wave.npz", "--channel", channel)
        assert found["identifiable"] is False
        assert "104.3 ms" in found["reason"]
        assert [found[name] for name in ("lag_ms", "sensor", *ENERGIES)] == [None] * 4
        assert found["missing"]["lag_ms"] == found["reason"]
        assert found["window_ms"] == pytest.approx(25.5, abs=0.5)
        assert found["period_ms"] == pytest.approx(101.21, abs=0.02)
        assert found["naive_load_energy_error"] == pytest.approx(-0.335, abs=0.005)
        assert found["naive_idle_energy_error"] == pytest.approx(0.975, abs=0.01)


@pytest.mark.parametrize("kept", ["json", "profile"])
def test_the_step_s_sensor_gives_the_wave_s_joules(run, traces, tmp_path, kept):
    for fitted in ("draw", "instant") if kept == "json" else ("instant",):
        _, found, _ = run(
            "--recording",
            traces / "a100_pcie_step.npz",
            "--channel",
            fitted,
            *(("--save", tmp_path / "p.json") if kept == "profile" else ()),
        )
        if kept == "json":
            (tmp_path / "p.json").write_text(json.dumps(found))
        for channel in ("draw", "instant"):
            status, found, _ = run(
                "--recording",
                traces / "a100_pcie_wave.npz",
                "--sensor",
                tmp_path / "p.json",
                "--channel",
                channel,
            )
            assert status == 0
            assert found["identifiable"] is None
            assert max(abs(found[name]) for name in ENERGIES) < 0.05
            assert found["held_out_rmse_w"] == found["rmse_w"] < 15


def test_a_wrong_sensor_shows_in_joules_and_residual(run, traces, tmp_path):
    wrong = {"period_ms": 101.2, "lag_ms": 20.0, "window_ms": 25.0, "gain": 0.958, "offset_w": -2.2}
    (tmp_path / "p.json").write_text(json.dumps(wrong))
    _, found, _ = run("--recording", traces / "a100_pcie_wave.npz", "--sensor", tmp_path / "p.json")
    assert abs(found["idle_energy_error"]) > 0.15
    assert found["rmse_w"] > 20


def test_a_channel_without_values(run, traces):
    status, found, _ = run("--recording", traces / "rtx4090_step.npz")
    assert (status, found["channel"]) == (0, "draw")
    status, found, err = run("--recording", traces / "rtx4090_step.npz", "--channel", "instant")
    assert (status, found) == (2, None)
    assert "no values" in err and len(err.splitlines()) == 1


def test_a_simulated_sensor_is_found_whatever_the_order(run, write):
    arrays = recording(wave(0.15, 6, dither=0.3), end_s=8)
    order = np.random.default_rng(0).permutation(len(arrays["sensor_t_ms"]))
    for name in ("sensor_t_ms", "sensor_draw_w", "sensor_instant_w"):
        arrays[name] = np.concatenate([arrays[name][order], arrays[name][order[:5]]])
    status, found, _ = run("--recording", write(arrays))
    assert status == 0
    assert found["identifiable"] is True
    assert found["lag_ms"] == pytest.approx(20, abs=0.5)
    assert found["window_ms"] == pytest.approx(25, abs=0.6)
    assert found["sensor"]["tau_ms"] == 0
    assert max(abs(found[name]) for name in ENERGIES) < 0.02
    assert len(found["notes"]) == 4


@pytest.mark.parametrize(
    ("drop", "lacking", "words"),
    [
        (("meter_t_ms",), ("gain", "offset_w", *ENERGIES), "no external meter"),
        (("load_mark_t_ms",), ENERGIES, "no load marks"),
        (("meter_power_w", "load_mark_t_ms"), ("lag_ms", "rmse_w", "sensor", *ENERGIES), "neither"),
    ],
)
def test_what_a_recording_lacks_is_null_and_said(run, write, drop, lacking, words):
    arrays = recording(wave(0.15, 6, dither=0.3), end_s=8)
    status, found, _ = run("--recording", write({k: v for k, v in arrays.items() if k not in drop}))
    assert status == 0
    assert [found[name] for name in lacking] == [None] * len(lacking)
    assert words in " ".join([*found["missing"].values(), found["reason"] or ""])
    assert found["period_ms"] == pytest.approx(101.2, abs=0.02)
    if "lag_ms" not in lacking:
        assert found["identifiable"] is True
        assert found["lag_ms"] == pytest.approx(20, abs=0.5)
        assert found["against"] == ("switching of the load" if "meter_t_ms" in drop else "external meter")


@pytest.mark.parametrize("seconds", [0.1, 0.8])
def test_a_short_recording_says_so(run, write, seconds):
    arrays = recording([0.3, 0.9, 1.1, 1.4], end_s=2)
    kept = arrays["sensor_t_ms"] < seconds * 1e3
    for name in ("sensor_t_ms", "sensor_draw_w", "sensor_instant_w"):
        arrays[name] = arrays[name][kept]
    status, found, _ = run("--recording", write(arrays))
    assert status == 0
    assert found["identifiable"] is False
    assert found["lag_ms"] is found["rmse_w"] is found["sensor"] is None
    assert found["reason"]
    assert set(found) >= FIELDS


def test_a_log_that_changes_only_outside_the_meter_s_time(run, write):
    arrays = recording([1.0, 2.0, 2.5, 3.0], end_s=6)
    outside = arrays["sensor_t_ms"] < 0
    before_ms = arrays["sensor_t_ms"][outside] - 5000
    arrays["sensor_t_ms"] = np.concatenate([before_ms - 500 * i for i in range(9)])
    for name in ("sensor_draw_w", "sensor_instant_w"):
        arrays[name] = np.tile(arrays[name][outside], 9)
    status, found, _ = run("--recording", write(arrays))
    assert status == 0
    assert found["identifiable"] is False
    assert "only 0 updates" in found["reason"]


def test_a_recording_of_noise_is_not_explained(run, write):
    arrays = recording(wave(0.73, 8), end_s=10)
    noise = np.random.default_rng(0).normal(100, 10, 200)[np.arange(len(arrays["sensor_t_ms"])) // 8]
    _, found, _ = run("--recording", write(arrays | {"sensor_instant_w": noise}))
    assert found["identifiable"] is False
    assert "do not follow" in found["reason"]
    assert found["gain"] is found["window_ms"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--recording", "none.npz"], 2, "cannot read"),
        (["--channel", "voltage"], 2, "invalid choice"),
        (["--recording", "a.npz", "--sensor", "none.json"], 2, "cannot read the sensor"),
        (["--recording", "a.npz", "--sensor", "b.json", "--save", "c.json"], 2, "nothing to --save"),
        (["--recording", "a.npz", "--record", "b.npz"], 2, "--record"),
        (["--recording", "a.npz", "--plot", "b.txt"], 2, "a plot ends in"),
        (["--recording", "a.npz", "--save", "no/such/folder/b.json"], 2, "no folder"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, status, words):
    found_status, found, err = run(*arguments)
    assert (found_status, found) == (status, None)
    assert words in err and len(err.splitlines()) == 1


def test_what_cannot_be_told_is_not_saved(run, write, tmp_path):
    path = write(recording(wave(0.1043, 8), end_s=10))
    status, found, err = run("--recording", path, "--save", tmp_path / "p.json")
    assert status == 1
    assert found["identifiable"] is False
    assert "no sensor was saved" in err
    assert not (tmp_path / "p.json").exists()


def test_the_text_has_figures_and_reasons(capsys, write):
    assert sensor.main(["--recording", str(write(recording(wave(0.1043, 8), end_s=10)))]) == 0
    out = capsys.readouterr().out
    assert "period         101.2" in out
    assert "lag            not known, see below" in out
    assert "identifiable   NO: the load repeats every 104." in out


@pytest.mark.parametrize("drop", [(), ("meter_t_ms", "load_mark_t_ms"), ("sensor_draw_w",)])
def test_a_picture_is_drawn_of_whatever_there_is(run, write, tmp_path, drop):
    pytest.importorskip("matplotlib")
    arrays = recording(wave(0.73, 5), end_s=7)
    if "sensor_draw_w" in drop:
        arrays["sensor_instant_w"] = np.full_like(arrays["sensor_instant_w"], 60)
    path = write({name: array for name, array in arrays.items() if name not in drop})
    assert run("--recording", path, "--plot", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_without_a_gpu_one_line_says_so(run, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, found, err = run()
    assert (status, found) == (1, None)
    assert "no CUDA device" in err and len(err.splitlines()) == 1


def test_a_live_gpus_channels_are_kept_for_its_meters(monkeypatch, tmp_path, capsys):
    """Every channel whose lag could be told; the recording stands in for the GPU."""
    from engine.energy.power_recording import recording_of
    from engine.energy.sensor_profile import find_profile

    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path))
    arrays = recording(wave(0.15, 60, dither=0.3), end_s=21)
    arrays |= {"gpu": np.array("A GPU"), "uuid": np.array("GPU-1"), "driver": np.array("7")}
    arrays["sensor_draw_w"] = np.full_like(arrays["sensor_instant_w"], 50.0)  # tells nothing
    live = recording_of(tmp_path / "live.npz", arrays)
    monkeypatch.setattr("bench.sensor_live.record_gpu", lambda device, path: live)
    assert sensor.main(["--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["channel"] == "instant"
    found, remark = find_profile("GPU-1", "7", "instant")
    assert found is not None, remark
    assert found.delay_s == pytest.approx(0.0325, abs=0.003)
    assert "channel instant: kept in" in err
    assert "channel draw: no profile was kept" in err
    assert find_profile("GPU-1", "7", "draw")[0] is None
