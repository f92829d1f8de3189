"""Every module of Triton kernels against the reference, each in a process of its own, one a core.

Triton decides when it is imported whether kernels are compiled or interpreted, for the whole process.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
Runs = dict[Path, Future[subprocess.CompletedProcess[str]]]


def run(module: Path, marked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, str(module)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def begin(marked: str) -> Iterator[Runs]:
    pytest.importorskip("triton", reason="triton is published for Linux only")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {module: pool.submit(run, module, marked) for module in MODULES}


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    yield from begin("not slow")


@pytest.fixture(scope="module")
def slow_runs() -> Iterator[Runs]:
    yield from begin("slow")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_module_in_the_interpreter(module: Path, runs: Runs) -> None:
    done = runs[module].result()
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_slow_part_of_a_module(module: Path, slow_runs: Runs) -> None:
    done = slow_runs[module].result()
    nothing_to_run = 5
    assert done.returncode in (0, nothing_to_run), f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
