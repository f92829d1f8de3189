"""Fits on curves whose coefficients are known, with noise and without; what cannot be told is refused."""

import numpy as np
import pytest

from bench.experiments.curve_table import curve
from bench.experiments.fits import amortised, common_shape, least_squares, polynomial, wilkins

NEW = [1.0, 2, 4, 8, 16, 32, 64, 128]


def test_a_parabola_without_noise_is_found_exactly() -> None:
    fit = polynomial(NEW, [3 + 0.5 * m + 0.002 * m * m for m in NEW], 2)
    assert fit.coefficients == pytest.approx((3, 0.5, 0.002), rel=1e-9)
    assert fit.error < 1e-12
    found = curve(NEW, [3 + 0.5 * m + 0.002 * m * m for m in NEW])
    assert found.bent and found.bend == pytest.approx(0.002 * 128**2 / (3 + 64 + 0.002 * 128**2))


def test_intervals_cover_the_quadratic_term_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = [3 + 0.5 * m for m in NEW]  # straight: the quadratic term is 0
    inside = bends = 0
    for _ in range(600):
        noisy = [value * (1 + rng.normal(0, 0.03)) for value in truth]
        interval = polynomial(NEW, noisy, 2).interval("x²")
        assert interval is not None
        inside += interval[0] <= 0 <= interval[1]
        bends += bool(curve(NEW, noisy).bent)
    assert 0.92 <= inside / 600 <= 0.98
    assert bends == 600 - inside


def test_a_bend_as_large_as_the_scatter_allows_is_seen() -> None:
    rng = np.random.default_rng(1)
    noisy = [(3 + 0.5 * m + 0.004 * m * m) * (1 + rng.normal(0, 0.02)) for m in NEW]
    assert curve(NEW, noisy).bent


def test_relative_errors_weigh_alike() -> None:
    """One cell 10 % too high moves the line by as much wherever it stands, not by its joules."""
    straight = [3 + 0.5 * m for m in NEW]
    high = [*straight[:-1], straight[-1] * 1.1]
    assert polynomial(NEW, high, 1)["1"] == pytest.approx(3, rel=0.03)


def test_amortisation_alone_bends_joules_per_token_of_a_straight_energy() -> None:
    per_token = [(3 + 0.5 * m) / (64 + m) for m in NEW]
    two = amortised(64, NEW, per_token)
    assert two.coefficients == pytest.approx((3, 0.5)) and two.error < 1e-12
    parabola = polynomial(NEW, per_token, 2)
    interval = parabola.interval("x²")
    assert interval is not None and interval[1] < 0  # a parabola calls it bent
    assert parabola.error > 0.01


def test_wilkins_form_is_found_on_a_grid_and_refused_on_one_line() -> None:
    n, m = np.meshgrid([32.0, 256.0], NEW)
    energy = 0.01 * n + 0.3 * m + 0.0004 * n * m
    fit = wilkins(n.ravel().tolist(), m.ravel().tolist(), energy.ravel().tolist())
    assert fit.coefficients == pytest.approx((0.01, 0.3, 0.0004))
    with pytest.raises(ValueError, match="two prompt lengths"):
        wilkins([64.0] * 8, NEW, NEW)


@pytest.mark.parametrize(
    ("columns", "y", "said"),
    [
        ({"a": [1, 1, 1], "b": [2, 2, 2]}, [1, 2, 3], "not identifiable"),
        ({"a": [1], "b": [2]}, [1], "do not determine"),
        ({"a": [1, 2]}, [0, 1], "zero or less"),
    ],
)
def test_what_is_not_determined_is_refused(
    columns: dict[str, list[float]], y: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        least_squares({name: np.array(values) for name, values in columns.items()}, y)


def test_as_many_points_as_coefficients_leave_no_interval() -> None:
    fit = polynomial([1, 2, 4], [1, 2, 3], 2)
    assert fit.halves is None and fit.interval("x²") is None
    assert curve([1, 2, 4], [1, 2, 3]).bent is None
    assert "not fitted: 2 points" in curve([1, 2], [1, 2]).cells()[0]


def _samples(
    rng: np.random.Generator, curves: list[list[float]], repeats: list[int]
) -> list[list[list[float]]]:
    return [
        [
            [value * (1 + rng.normal(0, 0.02)) for _ in range(repeats[j % len(repeats)])]
            for j, value in enumerate(c)
        ]
        for c in curves
    ]


def test_one_shape_of_different_amplitude_is_rejected_as_rarely_as_five_per_cent() -> None:
    rng = np.random.default_rng(3)
    shape = [3 + 0.5 * m for m in NEW]
    curves = [[a * value for value in shape] for a in (1, 2.5, 4)]
    ps = []
    for _ in range(200):
        found = common_shape(_samples(rng, curves, [3, 4]))
        assert found.p is not None
        ps.append(found.p)
    assert found.amplitudes == pytest.approx((1, 2.5, 4), rel=0.05)
    assert found.largest < 0.05
    assert (found.above, found.below) == (14, 3 * (4 * 3 + 4 * 4) - 24)
    assert 0.01 <= sum(p < 0.05 for p in ps) / len(ps) <= 0.10


def test_different_shapes_are_rejected_and_the_distance_is_told() -> None:
    rng = np.random.default_rng(4)
    curves = [[3 + 0.5 * m for m in NEW], [1 + 0.9 * m for m in NEW]]
    found = common_shape(_samples(rng, curves, [3]))
    assert found.p is not None and found.p < 1e-6
    assert found.largest > 0.2


def test_a_shape_without_repeats_or_a_second_curve_is_not_tested() -> None:
    single = common_shape([[[1.0], [2.0]], [[2.0], [4.0]]])
    assert single.p is None and single.largest < 1e-12
    with pytest.raises(ValueError, match="two curves"):
        common_shape([[[1.0], [2.0]]])
    with pytest.raises(ValueError, match="two curves"):
        common_shape([[[1.0], [2.0]], [[1.0]]])
