"""What needs a CUDA device: skipped, by name of the reason, where torch finds none."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.kernels.interpreted.thinned import thin

HERE = Path(__file__).parent

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if HERE in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))
    thin(own)


@pytest.fixture
def on_the_device() -> Iterator[None]:
    """Tensors of a test are made on the device unless it says otherwise, as the shared cases are written."""
    with torch.device("cuda", 0):
        yield
