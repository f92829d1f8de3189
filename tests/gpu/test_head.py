"""Head and embedding: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_head import (  # noqa: F401
    test_embeddings_are_rows_of_the_table,
    test_logits_are_the_references,
    test_many_rows_are_the_same_rows,
    test_the_choice_is_of_these_logits,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
