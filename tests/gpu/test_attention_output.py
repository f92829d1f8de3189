"""Products that join the residual stream: the cases of the interpreted tests, run on a device."""

import pytest

from tests.kernels.interpreted.test_attention_output import (  # noqa: F401
    test_sizes,
    test_the_stage_is_the_reference,
    test_tiles,
    test_tiles_that_share_columns_and_warps_agree_to_the_bit,
    test_vectors_in_bf16_are_taken,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
