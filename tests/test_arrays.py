from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.arrays import load_arrays, save_arrays
from engine.errors import TokenjouleError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Inner:
    weights: Array
    reach: float


@dataclass(frozen=True)
class Held:
    names: tuple[str, ...]
    inner: Inner
    other: Inner | None = None
    note: str | None = None


VALUE = Held(("a", "b"), Inner(np.arange(6.0).reshape(2, 3), 0.5))


@pytest.fixture
def path(tmp_path):
    save_arrays(tmp_path / "h.npz", VALUE, "test/1")
    return tmp_path / "h.npz"


def test_what_is_saved_is_read(path):
    found = load_arrays(path, Held, "test/1")
    assert (found.names, found.inner.reach, found.other, found.note) == (("a", "b"), 0.5, None, None)
    np.testing.assert_array_equal(found.inner.weights, VALUE.inner.weights)
    assert [file.name for file in path.parent.iterdir()] == ["h.npz"], "nothing is left beside it"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": np.array("test/2")}, "schema"),
        ({"inner.weights": np.array(["a"])}, r"inner\.weights must be"),
        ({"inner.reach": np.array("far")}, r"inner\.reach must be a float"),
        ({"inner": np.ones(1)}, "held"),
        ({"more": np.ones(1)}, "unknown: more"),
        ({"names": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_a_file_that_is_none_is_one_line(path, changes, said):
    np.savez(path, **{**np.load(path), **changes})
    with pytest.raises(TokenjouleError, match=rf"h\.npz is no held: .*{said}|no {said}") as error:
        load_arrays(path, Held, "test/1")
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(TokenjouleError, match="cannot write"):
        save_arrays(tmp_path / "none" / "h.npz", VALUE, "test/1")


def test_what_is_not_there_or_no_archive_is_said_without_advice_on_pickles(tmp_path):
    (tmp_path / "text.npz").write_bytes(b"text")
    for name, said in (("text.npz", "no archive of arrays"), ("none.npz", "No such file or directory")):
        with pytest.raises(TokenjouleError, match=rf"{name} is no held: {said}$"):
            load_arrays(tmp_path / name, Held, "test/1")
