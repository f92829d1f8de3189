"""q, keys and values: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_attention_input import (  # noqa: F401
    test_a_resting_row_writes_nothing,
    test_every_form_of_weights,
    test_it_is_the_reference,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
