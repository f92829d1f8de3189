"""These modules run where Triton interprets its kernels: `tests/kernels/test_interpreted.py` starts them
so.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
    collect_ignore_glob = ["test_*.py"]

# A case takes the interpreter up to eight seconds. Of these tests every so many cases run each time, with the
# other tests of the module all forms of weights and sizes among them; all cases run with the slow tests.
EVERY = {
    "test_it_is_the_reference": 6,
    "test_tiles": 6,
    "test_tiles_of_gate_and_up": 3,
    "test_what_is_wrong_is_found": 5,
    "test_logits_are_the_references": 6,
    "test_the_choice_is_of_these_logits": 4,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: dict[str, int] = {}
    for item in items:
        name = getattr(item, "originalname", item.name)
        count = seen[name] = seen.get(name, -1) + 1
        if count % EVERY.get(name, 1):
            item.add_marker(pytest.mark.slow)
