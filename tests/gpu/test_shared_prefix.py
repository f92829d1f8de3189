"""Attention of a shared prefix: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_shared_prefix import (  # noqa: F401
    test_a_graph_replays_with_another_prefix_and_other_positions,
    test_a_row_without_a_position_of_its_own_rests,
    test_it_is_the_reference_of_each_row,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
