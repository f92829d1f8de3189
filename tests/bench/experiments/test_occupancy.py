"""Who else is at work, and how busy the device is: pretended drivers and a pretended /proc."""

import os
import time
from pathlib import Path

import pytest

from bench.experiments import occupancy
from bench.experiments.occupancy import Observer, named
from engine.errors import MeterError


class Gpu:
    """A pretended GPU: what it says, or `fails`."""

    def __init__(self, pids: tuple[int, ...] = (), *, fails: bool = False) -> None:
        self.pids, self.fails, self.asked = pids, fails, 0

    def utilisation(self) -> tuple[float, float] | None:
        self.asked += 1
        if self.fails:
            raise MeterError("gone")
        return (0.8, 0.3) if self.asked % 2 else (0.6, 0.5)

    def clocks_hz(self) -> tuple[float, float] | None:
        return 1.5e9, 2.6e9

    def other_processes(self) -> tuple[int, ...]:
        return self.pids


def processes(root: Path, **seconds: float) -> None:
    """A /proc with processes 101, 102, … of these names and CPU seconds."""
    ticks = os.sysconf("SC_CLK_TCK")
    for number, (name, used) in enumerate(seconds.items(), 101):
        path = root / str(number)
        path.mkdir(parents=True, exist_ok=True)
        before = " ".join(["S", *["0"] * 10])
        (path / "stat").write_text(f"{number} (my {name}) x) {before} {int(used * ticks)} 0 0 0")
        (path / "comm").write_text(name)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(occupancy, "_PROC", tmp_path)
    return tmp_path


def test_processes_that_worked_meanwhile_are_named_and_idle_ones_are_not(proc: Path) -> None:
    now = 0.0
    processes(proc, busy=10.0, idle=50.0)
    observer = Observer(None, clock=lambda: now)
    observer.begin()
    processes(proc, busy=11.0, idle=50.01, young=0.5)
    now = 2.0
    found = observer.end()
    assert found.others == {"my busy) x": pytest.approx(0.5), "my young) x": pytest.approx(0.25)}
    assert (found.gpu_share, found.sm_clock_hz) == (None, None)


def test_processes_of_one_name_count_together_and_the_most_of_all_windows_is_told() -> None:
    windows = [{"a": 0.2, "b": 0.4}, {"a": 0.9}, {"gpu job (7)": None}]
    assert named(windows) == ("a (90% of a core)", "b (40% of a core)", "gpu job (7)")
    assert named([{}]) == ()


def test_a_gpu_is_sampled_and_its_other_processes_are_named(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "SAMPLE_S", 0.005)
    processes(proc, train=1.0)
    gpu = Gpu((101, 4711))
    observer = Observer(gpu)
    observer.begin()
    deadline = time.monotonic() + 5
    while gpu.asked < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    found = observer.end()
    assert 0.6 < (found.gpu_share or 0) < 0.8 and 0.3 < (found.gpu_memory_share or 0) < 0.5
    assert (found.sm_clock_hz, found.memory_clock_hz) == (1.5e9, 2.6e9)
    assert found.others == {"train (101)": None, "unnamed (4711)": None}


def test_a_driver_that_fails_leaves_the_utilisation_untold(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "SAMPLE_S", 0.001)
    gpu = Gpu(fails=True)
    observer = Observer(gpu)
    observer.begin()
    deadline = time.monotonic() + 5
    while not gpu.asked and time.monotonic() < deadline:
        time.sleep(0.001)
    assert observer.end().gpu_share is None


def test_our_own_time_over_all_cores_is_the_cpu_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "cores", lambda: 2)
    observer = Observer(None)
    observer.begin()
    spun = time.process_time() + 0.05
    while time.process_time() < spun:
        pass
    share = observer.end().cpu_share
    assert 0 < share <= 1.0  # one busy thread of this process: half of two cores at most, loaders aside
