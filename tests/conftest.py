"""Fixtures that more than one test module needs."""

import os

# Before numpy is loaded, here and in what tests start: on its small matrices OpenBLAS's second thread only
# spins (a simulated joule budget: 0.22 s of CPU with two threads, 0.06 with one).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from tests.kernels.interpreter import CORES, QUICK, Done, begun, refusal

torch.set_num_threads(1)  # the models of the tests are tiny: a second thread only waits


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine has taught the program (operating curves, sensor profiles) changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENJOULE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def interpreter_runs(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[Done]]]:
    """Modules that Triton interprets, begun with the session: they take minutes, on a core of their own."""
    chosen = {item.name for item in request.session.items}
    wanted = [module for module in QUICK if f"test_module_in_the_interpreter[{module.stem}]" in chosen]
    with begun(dict.fromkeys([] if refusal() else wanted, "not slow"), workers=max(CORES - 1, 1)) as runs:
        yield runs


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Root of the test data, with data/ and models/ in it."""
    root = os.environ.get("TOKENJOULE_DATA")
    if not root:
        pytest.skip("set TOKENJOULE_DATA to the folder that holds data/ and models/")
    return Path(root)


@pytest.fixture(scope="module")
def letters_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model of `tests.letters`, written once a module."""
    from tests import letters

    path = tmp_path_factory.mktemp("letters")
    letters.write(path)
    return path
