"""What is told while a model loads, and the line that shows it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from engine import loading
from engine.engine import Engine
from engine.loading import LoadingLine, LoadStep, Work
from engine.locate import BUNDLED
from kernels import api
from tests.cli import PROMPT

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("quantize", "work"), [(None, Work.WEIGHTS), ("int8", Work.PACKING)])
def test_an_engine_tells_of_every_layer(quantize: str | None, work: Work) -> None:
    steps: list[LoadStep] = []
    options = {"backend": "torch", "energy_source": "simulated"}
    Engine.load(quantize=quantize, on_progress=steps.append, **options).close()  # type: ignore[arg-type]
    assert steps == [LoadStep(work, layer, 4) for layer in (1, 2, 3, 4)]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loading, "time", clock)
    return clock


def show(clock: Clock, line: LoadingLine) -> None:
    """A second of weights in four layers, then kernels."""
    for layer in (1, 2, 3, 4):
        clock.now_s += 0.3
        line(LoadStep(Work.WEIGHTS, layer, 4))
    for done in range(3):
        line(LoadStep(Work.KERNELS, done, None))
        clock.now_s += 0.6


def test_a_file_gets_a_line_a_second_and_kernels_at_once(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    with LoadingLine(quiet=False) as line:
        show(clock, line)
    assert capsys.readouterr().err.splitlines() == [
        "loading weights: 4 of 4",
        "compiling kernels for this CPU, once: 0 so far",
        "compiling kernels for this CPU, once: 2 so far",
    ]


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with LoadingLine(quiet=False) as line:
        for layer in range(1, 33):
            line(LoadStep(Work.WEIGHTS, layer, 32))
    assert capsys.readouterr().err == ""


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with LoadingLine(quiet=True) as line:
        show(clock, line)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_line_that_goes(
    capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich: this is a terminal
    with LoadingLine(quiet=False) as line:
        show(clock, line)
    err = capsys.readouterr().err
    assert "loading weights: 1 of 4" in err
    assert "compiling kernels for this CPU, once: 2 so far" in err
    assert err.count("\n") < err.count("loading weights") + err.count("compiling")
    assert err.endswith("\x1b[2K"), "the line is taken away at the end"


KERNEL = """
from kernels.cpu.target import compiled

@compiled
def inner(x):
    return x + 1

@compiled
def outer(x):
    return inner(x) * 2
"""


def fresh(path: Path) -> ModuleType:
    """The module in a file, imported anew: what a new process would have of it."""
    spec = importlib.util.spec_from_file_location("planted_kernel", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba looks functions up there
    spec.loader.exec_module(module)
    return module


def test_compilations_are_counted_and_kept_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "planted_kernel.py"
    path.write_text(KERNEL)
    told: list[int] = []
    backend = api.load("cpu", torch.device("cpu"))
    with api.compilations(backend, told.append):
        assert fresh(path).outer(3) == 8
    assert told == [0, 1, 2]
    with api.compilations(backend, told.append):
        assert fresh(path).outer(4) == 10
        assert told == [0, 1, 2], "found in the cache"
        assert fresh(path).outer(4.5) == 11, "another type"
    assert told == [0, 1, 2, 0, 1, 2]
    fresh(path).outer(4j)
    assert told == [0, 1, 2, 0, 1, 2], "outside"
    with api.compilations(api.load("torch", torch.device("cpu")), told.append):
        fresh(path).outer(True)
    assert told == [0, 1, 2, 0, 1, 2], "nothing that the torch backend does is compiled"


@pytest.mark.slow
def test_the_first_run_on_a_machine_says_that_it_compiles(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine.generate", "--backend", "cpu", "--model", str(BUNDLED), PROMPT]
    seen = []
    for _ in range(2):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append([line for line in done.stderr.splitlines() if line.startswith("compiling kernels")])
    assert seen[0][0] == "compiling kernels for this CPU, once: 0 so far"
    assert len(seen[0]) > 2
    assert seen[1] == []
