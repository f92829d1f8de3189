"""A linear probe on the state behind a layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import TokenjouleError, UsageError
from engine.steps import StopReason
from engine.stop import HiddenProbe
from tests.stop.scripted import play, thinker, thought

# The state that wrote a step's end is (steps written before, 1) here: sure from three on.
PROBE: dict[str, Any] = {
    "w": np.array([2.0, 0.0], np.float32),
    "b": np.array(-5.0, np.float32),
    "threshold": np.array(0.6, np.float32),
    "layer": np.array(0),
}
SCRIPT = thinker("abcdefgh", ["7"])


def write(path: Path, **changes: Any) -> str:
    held = {name: value for name, value in {**PROBE, **changes}.items() if value is not None}
    if path.suffix == ".npz":
        np.savez(path, **held)
    else:
        save_file({name: np.atleast_1d(value) for name, value in held.items()}, path)
    return str(path)


@pytest.mark.parametrize("name", ["probe.npz", "probe.safetensors"])
def test_it_stops_at_the_first_step_whose_state_says_so(tmp_path: Path, name: str) -> None:
    policy = HiddenProbe(write(tmp_path / name))
    assert policy.needs == {"hidden:0"}
    [result], _ = play(SCRIPT, policy)
    assert (thought(result), result.stop.policy, result.stop.probes) == ("a\nb\nc\nd\n", "HiddenProbe", 0)
    [result], _ = play(SCRIPT, HiddenProbe(str(tmp_path / name), threshold=0.99))
    assert thought(result) == "a\nb\nc\nd\ne\nf\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": None}, "has no w"),
        ({"w": np.ones((2, 2), np.float32)}, "one finite number for each hidden unit"),
        ({"b": np.array([1.0, 2.0], np.float32)}, "b must be one finite number"),
        ({"threshold": np.array(1.0, np.float32)}, "must lie in"),
        ({"layer": np.array(-1)}, "layer must be at least 0"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        HiddenProbe(write(tmp_path / "probe.npz", **changes))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.npz or \.safetensors"):
        HiddenProbe("probe.txt")
    with pytest.raises(UsageError, match="cannot read"):
        HiddenProbe(str(tmp_path / "none.npz"))
    for name in ("wrong.npz", "wrong.safetensors"):
        (tmp_path / name).write_text("no such thing")
        with pytest.raises(TokenjouleError, match="no hidden probe"):
            HiddenProbe(str(tmp_path / name))


def test_a_probe_of_another_width_fails_with_its_name(tmp_path: Path) -> None:
    [result], _ = play(SCRIPT, HiddenProbe(write(tmp_path / "p.npz", w=np.ones(3, np.float32))))
    assert result.stop.reason is StopReason.ERROR
    assert result.error is not None
    assert "3 hidden units, the model has 2" in result.error
