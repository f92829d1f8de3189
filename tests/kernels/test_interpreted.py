"""Modules of Triton kernels against the reference, each in a process of its own, as many as there are cores.

Triton decides when it is imported whether kernels are compiled or interpreted, for the whole process.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

MODULES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
# Run every time: the whole engine on all kernels of a step, and prefill.
# The others, and the slow parts of these, take some minutes and run with the slow tests.
QUICK = [module for module in MODULES if module.stem in ("test_engine", "test_prefill")]
Runs = dict[Path, Future[subprocess.CompletedProcess[str]]]


def version(text: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) for part in text.split(".")[:2])


def run(module: Path, marked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, str(module)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def begin(marked: dict[Path, str]) -> Iterator[Runs]:
    triton = pytest.importorskip("triton", reason="triton is published for Linux only")
    if version(triton.__version__) < (3, 7) and version(numpy.__version__) >= (2, 4):
        pytest.skip("Triton's interpreter before 3.7 makes a number of an array, which numpy 2.4 refuses")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {module: pool.submit(run, module, which) for module, which in marked.items()}


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[Runs]:
    yield from begin(dict.fromkeys(QUICK, "not slow"))


@pytest.fixture(scope="module")
def slow_runs() -> Iterator[Runs]:
    yield from begin({module: "slow" if module in QUICK else "slow or not slow" for module in MODULES})


@pytest.mark.parametrize("module", QUICK, ids=lambda module: module.stem)
def test_module_in_the_interpreter(module: Path, quick_runs: Runs) -> None:
    done = quick_runs[module].result()
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_rest_in_the_interpreter(module: Path, slow_runs: Runs) -> None:
    done = slow_runs[module].result()
    nothing_to_run = 5
    expected = (0, nothing_to_run) if module in QUICK else (0,)
    assert done.returncode in expected, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
