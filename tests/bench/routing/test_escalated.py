"""Further arms by what the first answered: as the router does it for one query, where it tells of others."""

import numpy as np
import pytest

from bench.routing.escalated import played
from engine.predict.evidence import Evidence
from router.policy import Conditions, Estimate, Limits, choose, escalate
from tests.predict.test_evidence import hard

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

JOULES = np.array([1.0, 3.0, 10.0])


@pytest.fixture(scope="module")
def data():
    learnt, p, _ = hard(0)
    table, _, _ = hard(1, 400)
    table.energy_j[:] = JOULES
    return Evidence.fit(learnt, p), table, p[:400], np.tile(JOULES, (400, 1))


@pytest.mark.parametrize("price", [0.0, 1.0, 3.0, 20.0])
def test_it_is_what_the_policy_does_with_each_query(data, price):
    told, table, p, expected = data
    right, spent = played(told, table, p, expected, price)
    for row in range(len(p)):
        assert (right[row], spent[row]) == one_by_one(told, table, p[row], row, price)


def one_by_one(told: Evidence, table, p, row: int, price: float) -> tuple[float, float]:
    """With the router's own functions, which know of one query alone."""
    limits, moment = Limits(price=price), Conditions()

    def estimates(p) -> list[Estimate]:
        return [Estimate(str(arm), str(arm), 0, p=p[arm], energy_j=JOULES[arm]) for arm in range(3)]

    chosen, tried, spent = choose(estimates(p), limits, moment, fallback="2"), [], 0.0
    while chosen is not None:
        arm = int(chosen.arm)
        tried.append(arm)
        spent += table.energy_j[row, arm]
        p = told(arm, p[None], table.confidence[[row], arm])[0]
        stands = max(tried, key=lambda one: p[one])
        chosen = escalate(p[stands], estimates(p), limits, moment, [str(one) for one in tried])
    return table.correct[row, stands], spent


def test_an_answer_that_tells_of_the_others_saves_what_asking_blindly_would_spend(data):
    told, table, p, expected = data
    own = Evidence(told.mean, told.scale, told.weights.copy())
    own.weights[~np.eye(3, dtype=bool)] = np.nan  # an answer tells of its own arm alone
    (right, spent), (blind_right, blind_spent) = (played(one, table, p, expected, 3.0) for one in (told, own))
    assert spent.mean() < 0.6 * blind_spent.mean()
    assert 100 * (right - blind_right).mean() > 3.0 * (spent - blind_spent).mean() + 5
