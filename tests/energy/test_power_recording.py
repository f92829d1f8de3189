"""Recordings as they come: out of order, with holes, without parts, or no recordings at all."""

from pathlib import Path

import numpy as np
import pytest

from engine.energy.power_recording import read_recording, recording_of
from engine.errors import TokenjouleError, UsageError
from tests.energy.power_simulation import recording, wave

ARRAYS = recording(wave(0.73, 4), end_s=6)
PATH = Path("some.npz")


def without(*names):
    return {name: array for name, array in ARRAYS.items() if name not in names}


def test_a_file_gives_all_that_is_in_it(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **ARRAYS, gpu=np.array("A GPU"), surprise=np.zeros((2, 2)))
    found = read_recording(path)
    assert (found.gpu, found.uuid, found.notes) == ("A GPU", "", [])
    assert found.channel(None) == "instant"
    assert found.channel("draw") == "draw"
    assert found.marks_s == pytest.approx(wave(0.73, 4))  # each was noted twice
    assert found.meter.end_s == pytest.approx(6.0, abs=1e-3)
    assert found.load().start_s == pytest.approx(0.0)


def test_a_channel_that_is_all_nan_is_not_there():
    nothing = np.full_like(ARRAYS["sensor_draw_w"], np.nan)
    found = recording_of(PATH, ARRAYS | {"sensor_instant_w": nothing})
    assert found.channel(None) == "draw"
    with pytest.raises(UsageError, match="'instant' holds no values, 'draw' does"):
        found.channel("instant")
    with pytest.raises(TokenjouleError, match="no sensor log"):
        recording_of(PATH, ARRAYS | {"sensor_instant_w": nothing, "sensor_draw_w": nothing})


def test_disorder_is_put_right_and_said():
    rng = np.random.default_rng(0)
    order = rng.permutation(len(ARRAYS["sensor_t_ms"]))
    mixed = {name: ARRAYS[name][order] for name in ("sensor_t_ms", "sensor_draw_w", "sensor_instant_w")}
    again = {name: np.concatenate([array, array[:3]]) for name, array in mixed.items()}
    again["sensor_draw_w"][5] = np.inf
    found = recording_of(PATH, ARRAYS | again)
    expected = recording_of(PATH, ARRAYS).channels["instant"]
    for mine, other in zip(found.channels["instant"], expected, strict=True):
        assert (mine == other).all()
    assert len(found.channels["draw"][0]) == len(order) - 1
    notes = " ".join(found.notes)
    assert "sensor_draw_w: 1 entries that are no number left out" in notes
    assert "sensor_instant_w: 3 entries of a repeated time left out" in notes
    assert "put into the order of time" in notes


def test_of_equal_times_the_later_entry_counts():
    found = recording_of(
        PATH, {"sensor_t_ms": np.array([0.0, 1, 1, 2]), "sensor_draw_w": np.array([1.0, 2, 3, 4])}
    )
    assert found.channels["draw"][1].tolist() == [1, 3, 4]


def test_what_is_missing_is_none():
    found = recording_of(PATH, without("meter_power_w", "load_mark_t_ms"))
    assert found.meter is None
    assert found.load() is None
    assert recording_of(PATH, ARRAYS | {"load_mark_t_ms": np.array([1.0, np.nan])}).load() is None


def test_a_counter_is_a_channel():
    times_s = np.arange(0.0, 5.0, 0.001)
    counter = {"time_s": times_s, "energy_j": np.floor(times_s / 0.1) * 0.1 * 123.0}
    found = recording_of(PATH, counter)
    assert found.channel(None) == "counter"
    assert found.updates("counter").readings == pytest.approx(123.0, rel=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sensor_t_ms": ARRAYS["sensor_t_ms"][:-1]}, "sensor_t_ms has"),
        ({"sensor_draw_w": np.zeros((3, 3))}, "one row"),
        ({"sensor_draw_w": np.array(["a", "b"])}, "one row"),
        ({"meter_t_ms": np.array(1.0)}, "one row"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, words):
    with pytest.raises(TokenjouleError, match=words):
        recording_of(PATH, ARRAYS | change)


@pytest.mark.parametrize("arrays", [{}, without("sensor_t_ms"), {"sensor_t_ms": [], "sensor_draw_w": []}])
def test_no_sensor_log_is_said(arrays):
    with pytest.raises(TokenjouleError, match="no sensor log"):
        recording_of(PATH, {name: np.asarray(array, dtype=float) for name, array in arrays.items()})


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04damaged"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(TokenjouleError, match=r"not a readable \.npz"):
        read_recording(path)


def test_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, sensor_t_ms=np.array([{}], dtype=object))
    with pytest.raises(TokenjouleError, match=r"not a readable \.npz"):
        read_recording(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="cannot read the recording"):
        read_recording(tmp_path / "none.npz")
