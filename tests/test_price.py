import math

import numpy as np

from engine.price import price_for_budget
from router.policy import dear, picked, priced


def test_the_price_for_a_budget_spends_no_more_and_the_next_lower_does():
    rng = np.random.default_rng(0)
    p, j = rng.random((500, 4)), rng.lognormal(size=(500, 4))

    def spent_j(price: float) -> float:
        return float(picked(j, priced(p, j, price)).mean())

    price = price_for_budget(spent_j, 1.0)
    assert spent_j(price) <= 1.0 < spent_j(price * (1 - 1e-5))
    assert price_for_budget(spent_j, float(j.min(axis=1).mean()) * 0.999) == math.inf
    assert 0 < price_for_budget(spent_j, 1e9) < 1e-6, "joules settle ties"


def test_arms_whose_joules_nobody_knows_are_beyond_every_budget():
    p, j = (
        np.array([[0.5, 0.8, 0.9], [0.9, 0.9, 0.9]]),
        dear(np.array([[1.0, 2.0, np.nan], [np.nan, 2.0, 10.0]])),
    )
    price = price_for_budget(lambda price: float(picked(j, priced(p, j, price)).mean()), 3.0)
    assert np.isfinite(price)
    assert priced(p, j, price).tolist() == [1, 1]
