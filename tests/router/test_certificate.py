import numpy as np
import pytest

from engine.predict.chances import lower_bound
from router.certificate import certified_threshold
from router.policy import cheapest_certain, picked


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
