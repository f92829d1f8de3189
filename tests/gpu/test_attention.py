"""Decode attention: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_attention import (  # noqa: F401
    test_a_graph_replays_at_the_next_position,
    test_a_row_does_not_depend_on_its_neighbours,
    test_it_can_be_called_again,
    test_it_is_the_reference,
    test_what_it_writes_is_rounded_to_the_output,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
