"""Gate, up and down: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_mlp import (  # noqa: F401
    test_it_is_the_reference,
    test_the_last_layer_leaves_no_norm_behind,
    test_tiles_of_gate_and_up,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
