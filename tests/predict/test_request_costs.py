import numpy as np
import pytest

from engine.predict.chances import coverage
from engine.predict.request_costs import CostEstimator
from tests.router.planted import plant


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return plant(rng, 600), plant(rng, 600), plant(rng, 4000)


def fitted(train, calibration=None) -> CostEstimator:
    table = train.table
    found = CostEstimator.fit(table.features, table.prompt_tokens, table.new_tokens, table.energy_j)
    if calibration is None:
        return found
    return found.calibrated(calibration.table.features, calibration.table.energy_j)


def test_nine_in_ten_requests_take_less_than_the_q90_of_every_arm(data):
    train, calibration, test = data
    costs = fitted(train, calibration).predict(test.table.features)
    for arm in range(3):
        assert 0.87 <= coverage(costs.q90[:, arm], test.table.energy_j[:, arm]) <= 0.93
    assert coverage(costs.median, test.table.energy_j) == pytest.approx(0.5, abs=0.04)


def test_expected_joules_add_up_and_follow_the_query(data):
    train, calibration, test = data
    expected = fitted(train, calibration).predict(test.table.features).expected
    np.testing.assert_allclose(expected.mean(0), test.table.energy_j.mean(0), rtol=0.05)
    assert np.corrcoef(np.log(expected[:, 0]), np.log(test.table.energy_j[:, 0]))[0, 1] > 0.7


def test_requests_that_failed_without_a_token_teach_no_length(data):
    table = data[0].table
    new, known = table.new_tokens.copy(), np.arange(600) % 3 > 0
    new[~known] = 0.0
    found = CostEstimator.fit(table.features, table.prompt_tokens, new, table.energy_j)
    new[~known] = np.nan
    other = CostEstimator.fit(table.features, table.prompt_tokens, new, table.energy_j)
    np.testing.assert_array_equal(found.lengths, other.lengths)
    np.testing.assert_array_equal(found.terms, other.terms)
    tokens = found.projection(table.features) @ found.lengths[1, 0, :-1] + found.lengths[1, 0, -1]
    assert np.exp(tokens).mean() == pytest.approx(table.new_tokens[:, 0].mean(), rel=0.15)


def test_a_curve_at_hand_takes_the_place_of_what_was_fitted(data):
    train, calibration, test = data
    found = fitted(train, calibration)
    plain = found.predict(test.table.features[:5]).expected
    other = found.predict(test.table.features[:5], {1: lambda n, m: 7.0}).expected
    np.testing.assert_allclose(other[:, [0, 2]], plain[:, [0, 2]])
    assert np.ptp(other[:, 1]) == 0.0 and other[0, 1] == pytest.approx(7.0 * found.spread[0, 1])


def test_finished_requests_teach_it(data):
    """The device now takes twice what it took: estimates follow, and q90 covers again."""
    train, calibration, test = data
    found = fitted(train, calibration)
    rows, actual = test.table.features[:1200], 2 * test.table.energy_j[:1200, 0]
    before = coverage(found.predict(rows).q90[:, 0], actual)
    for row, joules in zip(rows[:1000], actual[:1000], strict=True):
        found = found.observed(0, found.predict(row[None]).expected[0, 0], joules)
    after = coverage(found.predict(rows[1000:]).q90[:, 0], actual[1000:])
    assert before < 0.3 and 0.8 <= after <= 0.97
    other = fitted(train, calibration)
    np.testing.assert_array_equal(found.ratios[1], other.ratios[1])


@pytest.mark.parametrize("actual", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reading_that_makes_no_sense_teaches_nothing(data, actual):
    found = fitted(data[0])
    assert found.observed(0, 1.0, actual) is found
    assert found.observed(0, float("nan"), 1.0) is found


def test_an_arm_without_joules_is_not_known(data):
    table = data[0].table
    joules = table.energy_j.copy()
    joules[:, 2] = np.nan
    found = CostEstimator.fit(table.features, table.prompt_tokens, table.new_tokens, joules)
    costs = found.predict(table.features[:4])
    assert np.isnan(costs.expected[:, 2]).all() and np.isfinite(costs.expected[:, :2]).all()


def test_a_query_far_from_all_others_gets_a_finite_estimate(data):
    far = data[0].table.features[:1] * 1e6
    assert np.isfinite(fitted(data[0]).predict(far).q90).all()
