"""Prefill attention: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_prefill import (  # noqa: F401
    test_it_is_the_reference,
    test_what_it_writes_is_rounded_to_the_output,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
