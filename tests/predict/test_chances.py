from math import comb

import numpy as np
import pytest

from engine.predict.chances import coverage, ece, interval, log_loss, logit, lower_bound, reliability

pytest.importorskip("scipy", reason="bounds need scipy")


def test_so_many_or_more_come_as_rarely_as_was_asked_at_the_bound():
    p = lower_bound(9, 20, 0.05)
    assert sum(comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(9, 21)) == pytest.approx(
        0.05, rel=1e-9
    )


@pytest.mark.parametrize(
    ("right", "total", "delta", "expected"),
    # scipy.stats.beta.ppf(delta, right, total - right + 1)
    [(90, 100, 0.05, 0.8362823767), (1, 1, 0.05, 0.05), (0, 10, 0.05, 0.0), (999, 1000, 0.01, 0.9933803216)],
)
def test_the_bound_is_clopper_and_pearsons(right, total, delta, expected):
    assert lower_bound(right, total, delta) == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_none_and_of_all_reaches_the_end():
    assert interval(0, 50)[0] == 0.0 and interval(0, 50)[1] == pytest.approx(0.0711, abs=1e-4)
    assert interval(50, 50)[1] == 1.0
    with pytest.raises(ValueError, match="cannot be right"):
        lower_bound(3, 2, 0.1)


def test_bounds_of_many_counts_are_those_of_each():
    counts = [0, 3, 10]
    low, high = interval(counts, 10)
    for count, *ends in zip(counts, low, high, strict=True):
        assert ends == list(interval(count, 10))


def test_calibration_error_and_coverage_by_hand():
    p = np.array([0.2] * 10 + [0.9] * 10)
    right = np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 8 + [0.0] * 2)
    assert ece(p, right, bins=2) == pytest.approx(0.05)
    assert ece(np.append(p, np.nan), np.append(right, 1.0), bins=2) == pytest.approx(0.05)
    assert reliability(p, right, bins=2).tolist() == [
        [pytest.approx(0.2), 0.2, 10],
        [pytest.approx(0.9), 0.8, 10],
    ]
    assert coverage(np.array([1.0, 2.0, np.nan]), np.array([0.5, 3.0, 1.0])) == 0.5


def test_a_certain_mistake_costs_much_but_not_everything():
    right = np.array([1.0, 0.0, np.nan])
    assert log_loss(np.array([0.5, 0.5, 0.5]), right) == pytest.approx(np.log(2))
    assert 6 < log_loss(np.array([0.0, 0.0, 0.0]), right) < np.inf
    assert logit(np.array([0.5]))[0] == 0 and np.isfinite(logit(np.array([0.0, 1.0]))).all()
