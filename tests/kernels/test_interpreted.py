"""Modules of Triton kernels against the reference, where Triton interprets them."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.kernels.interpreter import CORES, MODULES, QUICK, Done, begun, refusal

Runs = dict[Path, Future[Done]]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    if reason := refusal():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def slow_runs(_possible: None) -> Iterator[Runs]:
    marked = {module: "slow" if module in QUICK else "slow or not slow" for module in MODULES}
    with begun(marked, workers=CORES) as runs:
        yield runs


@pytest.mark.parametrize("module", QUICK, ids=lambda module: module.stem)
def test_module_in_the_interpreter(module: Path, interpreter_runs: Runs) -> None:
    done = interpreter_runs[module].result()
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_rest_in_the_interpreter(module: Path, slow_runs: Runs) -> None:
    done = slow_runs[module].result()
    nothing_to_run = 5
    expected = (0, nothing_to_run) if module in QUICK else (0,)
    assert done.returncode in expected, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
