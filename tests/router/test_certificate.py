from math import comb

import numpy as np
import pytest

from router.certificate import certified_threshold, interval, lower_bound, upper_tail
from router.policy import cheapest_certain, picked


def test_the_tail_is_that_of_the_binomial_distribution():
    exact = sum(comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(9, 21))
    assert upper_tail(9, 20, 0.3) == pytest.approx(exact, rel=1e-9)
    assert (upper_tail(0, 5, 0.1), upper_tail(3, 5, 0.0), upper_tail(3, 5, 1.0)) == (1.0, 0.0, 1.0)


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


def questions(rng: np.random.Generator, count: int):
    """p as believed, joules, and answers that are right with another probability than is believed."""
    p = rng.uniform(0.3, 1.0, (count, 3))
    right = rng.random((count, 3)) < p**1.3
    return p, np.tile([1.0, 2.0, 4.0], (count, 1)), right.astype(float)


@pytest.mark.slow
def test_a_certified_threshold_is_violated_no_more_often_than_promised():
    rng = np.random.default_rng(1)
    p, j, right = questions(rng, 40_000)
    truth = {
        t: picked(right, cheapest_certain(p, j, t)).mean() for t in np.round(np.arange(0.01, 1.01, 0.01), 2)
    }
    found = [certified_threshold(*questions(rng, 300), target=0.7, delta=0.2) for _ in range(200)]
    certified = [t for t in found if t is not None]
    violated = sum(truth[t] < 0.7 for t in certified)
    assert len(certified) > 150
    assert lower_bound(violated, 200, 0.05) <= 0.2
    assert violated > 0, "a promise that is never touched would be far too careful"


def test_a_certificate_is_stricter_the_less_may_go_wrong():
    p, j, right = questions(np.random.default_rng(3), 1000)
    found = [certified_threshold(p, j, right, target=0.7, delta=delta) for delta in (0.5, 0.1, 0.001)]
    assert found[0] < found[1] < found[2] < 1
    kept = picked(right, cheapest_certain(p, j, found[1]))
    assert lower_bound(int(kept.sum()), 1000, 0.1) >= 0.7


def test_nothing_is_certified_that_no_threshold_reaches():
    p, j, right = questions(np.random.default_rng(2), 400)
    assert certified_threshold(p, j, right, target=0.99, delta=0.1) is None
