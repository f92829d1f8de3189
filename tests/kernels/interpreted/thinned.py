"""Which cases of the kernels' tests run every time: the others run with the slow tests."""

from collections.abc import Iterable

import pytest

# A case takes the interpreter up to eight seconds, and a compiler one or two. Of these tests every so many
# cases run each time, with the other tests of the module all forms of weights and sizes among them.
EVERY = {
    "test_it_is_the_reference": 6,
    "test_tiles": 6,
    "test_tiles_of_gate_and_up": 3,
    "test_what_is_wrong_is_found": 5,
    "test_logits_are_the_references": 6,
    "test_the_choice_is_of_these_logits": 4,
}


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark what is left out as slow."""
    seen: dict[tuple[str, str], int] = {}
    for item in items:
        name = getattr(item, "originalname", item.name)
        key = (str(item.path), name)
        count = seen[key] = seen.get(key, -1) + 1
        if count % EVERY.get(name, 1):
            item.add_marker(pytest.mark.slow)
