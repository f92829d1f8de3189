"""Selection: the cases of the interpreted tests, compiled and run on a device."""

import pytest

from tests.kernels.interpreted.test_select import (  # noqa: F401
    test_a_draw_depends_on_seed_stream_and_position_alone,
    test_a_small_temperature_is_nearly_greedy,
    test_a_step_advances_the_state,
    test_draws_follow_the_distribution,
    test_logits_that_are_not_finite_choose_some_token,
    test_of_equal_logits_at_a_bound_all_are_kept,
    test_of_equal_logits_greedy_takes_the_first,
    test_rows_of_all_sorts_side_by_side,
    test_scratch_is_left_as_it_was_made,
    test_tokens_of_no_probability_are_never_drawn,
    test_what_is_kept_is_what_the_host_keeps,
)

pytestmark = pytest.mark.usefixtures("on_the_device")
