"""What an operating curve says of requests and steps agrees with the steps that the decode loop takes."""

from dataclasses import replace

import pytest

from engine.energy.curve import TERMS, CostCurve, request_features, step_features
from engine.errors import UsageError
from tests import curves
from tests.curves import KEY, PLANTED_J


def total_j(prompts: list[int], new_tokens: int, rows: int) -> float:
    """Forward by forward: prefills, then steps that feed one token to each row."""
    base, prompt, token, square, step, row_step, position = PLANTED_J
    found = base + sum(prompt + token * n + square * n**2 for n in prompts)
    lengths = [prompts[row % len(prompts)] for row in range(rows)]
    for _ in range(new_tokens - 1):
        lengths = [length + 1 for length in lengths]
        found += step + row_step * rows + position * sum(lengths)
    return found


@pytest.mark.parametrize("new_tokens", [1, 2, 57])
@pytest.mark.parametrize(("prompts", "rows"), [([40], 1), ([40] * 3, 3), ([40], 16), ([10, 500], 2)])
def test_a_request_is_the_sum_of_its_forwards(prompts: list[int], new_tokens: int, rows: int) -> None:
    made = curves.curve()
    expected = made.energy.expected(request_features(prompts, new_tokens, rows))
    assert expected == pytest.approx(total_j(prompts, new_tokens, rows))
    if len(set(prompts)) == 1:
        asked = {"prompt_tokens": prompts[0], "new_tokens": new_tokens, "rows": rows, "prompts": len(prompts)}
        assert made.predict(**asked)[0] == pytest.approx(expected)
        assert made.predict_s(**asked)[0] * curves.DECODE_W == pytest.approx(expected)


def test_the_next_token_costs_the_difference_of_two_requests() -> None:
    made = curves.curve()
    for rows, length in ((1, 100), (4, 333)):
        longer, shorter = (made.predict(99, length - 99 + more, rows)[0] for more in (1, 0))
        assert made.step_j(length, rows)[0] == pytest.approx(longer - shorter)


def test_a_band_is_about_what_is_expected_and_never_below_nothing() -> None:
    made = curves.curve()
    expected, low, high = made.predict(100, 50)
    assert (high - expected, expected - low) == pytest.approx((0.04 * expected, 0.04 * expected))
    wide = replace(made, energy=replace(made.energy, factor=100.0))
    assert wide.predict(100, 50)[1] == 0.0


def test_the_interval_of_a_step_is_that_of_its_terms() -> None:
    spread = [[0.0] * 7 for _ in range(7)]
    for i, j, value in ((4, 4, 0.04), (5, 5, 0.01), (4, 5, -0.01), (5, 4, -0.01), (0, 0, 99.0)):
        spread[i][j] = value
    made = CostCurve(PLANTED_J, tuple(map(tuple, spread)), 0.0, 0.02, 2.0)
    expected, low, high = made.step(2, 100)
    assert high - expected == pytest.approx(1.96 * (0.04 + 4 * 0.01 - 2 * 2 * 0.01) ** 0.5)
    assert expected - low == pytest.approx(high - expected)


def test_the_least_that_prompts_take_is_below_what_is_expected() -> None:
    made = curves.curve()
    assert made.minimum_j([100, 20]) == pytest.approx(0.96 * total_j([100, 20], 1, 2))
    assert made.minimum_j([100], answer_tokens=9) == pytest.approx(0.96 * total_j([100], 9, 1))


def test_a_band_that_reaches_nothing_leaves_the_expected_as_the_least() -> None:
    base = curves.curve()
    wide = replace(base, energy=replace(base.energy, factor=100.0))
    assert wide.predict(100, 1)[1] == 0.0
    assert wide.minimum_j([100]) == pytest.approx(total_j([100], 1, 1))


@pytest.mark.parametrize("quantity", ["energy_mape", "seconds_mape"])
def test_a_curve_a_quarter_off_on_what_it_had_not_seen_is_not_predicted_by(quantity: str) -> None:
    made = curves.curve()
    for off, good in ((0.25, True), (0.2501, False)):
        tested = replace(made.tested, **{quantity: off})
        assert replace(made, tested=tested).predicts is good
        assert replace(made, tested=tested).off == off


def test_the_power_is_that_of_whichever_work_draws_more() -> None:
    base = curves.curve()
    hot = replace(
        base,
        seconds=replace(
            base.seconds,
            coefficients=tuple(
                j / w for j, w in zip(PLANTED_J, (90, 600, 600, 600, 350, 350, 350), strict=True)
            ),
        ),
    )
    assert 500 < hot.power_w([4000]) < 600
    assert hot.power_w([1]) == pytest.approx(350)


def test_sizes_that_were_not_run_are_not_covered() -> None:
    made = curves.curve()
    assert made.covers(8, 1, 8)
    for beyond in ((7, 1, 1), (4001, 1, 1), (8, 501, 1), (8, 1, 9)):
        assert not made.covers(*beyond)


@pytest.mark.parametrize("name", list(KEY.__dataclass_fields__))
def test_a_curve_of_something_else_is_refused_in_one_line(name: str) -> None:
    other = replace(KEY, **{name: 1.0 if name == "peak_w" else "another"})
    curves.curve().require(KEY)
    with pytest.raises(UsageError, match=name) as caught:
        curves.curve().require(other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coefficients": (1.0,) * 6}, "7 coefficients"),
        ({"coefficients": (-1.0, *PLANTED_J[1:])}, "not negative"),
        ({"coefficients": (float("nan"), *PLANTED_J[1:])}, "finite"),
        ({"coefficients": (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)}, "must cost something"),
        ({"factor": float("inf")}, "finite"),
        ({"covariance": ((0.0,) * 7,) * 6}, "7 coefficients"),
        ({"covariance": ((float("nan"),) * 7,) * 7}, "covariance"),
    ],
)
def test_curves_that_make_no_sense_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(curves.curve().energy, **change)


@pytest.mark.parametrize("sizes", [([], 1, 1), ([0], 1, 1), ([5], 0, 1), ([5], 1, 0)])
def test_sizes_start_from_one(sizes: tuple[list[int], int, int]) -> None:
    with pytest.raises(ValueError, match="start from 1"):
        request_features(*sizes)


def test_features_stand_in_the_order_of_their_names() -> None:
    assert len(request_features([3], 2, 1)) == len(step_features(1, 4)) == len(TERMS)
