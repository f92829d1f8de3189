"""These modules run where Triton interprets its kernels: `tests/kernels/test_interpreted.py` starts them
so. `tests/gpu` runs their cases on a device.
"""

import pytest

from tests.kernels.interpreted.thinned import thin
from tests.kernels.interpreted.where import INTERPRETED

if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    thin(items)
