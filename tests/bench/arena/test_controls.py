import numpy as np
import pytest

from bench.arena import controls
from bench.arena.scores import Estimate, Reference
from bench.arena.table import shown
from bench.calibration.grid import Grid
from bench.calibration.induction import fit_category
from bench.calibration.replay import Outcome, replay
from engine.stop.rule import POINTS, Axes
from tests.noisy_checks import CHECKER, check_runs

PRICE = 3.0
ADAPTIVE = Axes(stability=(2.0, 3.0, 4.0))


def small(correct) -> Grid:
    """Budgets of 1, 2, … J; every run is its own question."""
    right = np.array(correct, float)
    joules = np.tile(np.arange(1.0, right.shape[1] + 1), (len(right), 1))
    return Grid(joules, right, np.arange(len(right)), np.array(["a", "b"] * len(right))[: len(right)])


@pytest.fixture(scope="module")
def checked():
    """Unseen noisy checks, and what a fitted rule makes of them."""
    runs = check_runs(CHECKER, 800, 5)
    rule = fit_category(check_runs(CHECKER, 400, 6), ADAPTIVE)
    return Grid.of(runs), replay(runs, rule, PRICE)


def test_oracles_stop_where_they_say():
    grid = small([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert list(controls.first_correct(grid).stops) == [1, 0, 0, 0]
    assert list(controls.first_stably_correct(grid).stops) == [3, 0, 0, 0]
    assert list(controls.best_stop(grid, 0.1).stops) == [1, 0, 0, 0]
    assert list(controls.first_correct(grid).energy_j) == [2, 1, 1, 1]


def test_nothing_is_worth_more_than_the_best_stop_and_no_budget_more_than_the_best(checked):
    grid, own = checked
    best = controls.best_stop(grid, PRICE / POINTS).utility(PRICE)
    fixed = controls.best_fixed(grid, PRICE / POINTS).utility(PRICE).mean()
    for steps in range(grid.energy_j.shape[1]):
        found = controls.fixed(grid, steps).utility(PRICE)
        assert (found <= best + 1e-12).all() and found.mean() <= fixed + 1e-12
    assert (own.utility(PRICE) <= best + 1e-12).all()


def test_each_category_has_its_own_best_budget():
    grid = small([[1, 0], [0, 1]] * 5)
    together = controls.best_fixed(grid, 0.01).utility(1.0).mean()
    apart = controls.best_fixed(grid, 0.01, by_category=True)
    assert list(apart.stops) == [0, 1] * 5
    assert apart.utility(1.0).mean() > together


def test_permuted_stops_are_the_same_stops_of_the_same_category():
    grid = small([[0, 1, 1]] * 8)
    stops = np.array([0, 2, 0, 2, 1, 2, 0, 2])
    for outcome in controls.permuted(grid, stops, 0, within=True):
        assert sorted(outcome.stops[::2]) == [0, 0, 0, 1] and set(outcome.stops[1::2]) == {2}
    mixed = controls.permuted(grid, stops, 0)
    assert any(set(outcome.stops[1::2]) != {2} for outcome in mixed)


def test_a_rule_that_adapts_beats_its_own_stops_shuffled_and_the_best_budget(checked):
    grid, own = checked
    reference = Reference(grid, PRICE, draws=300)
    shuffled = controls.averaged(controls.permuted(grid, own.stops, 0))
    assert reference.beats(own, shuffled).low > 0
    assert reference.beats(own, controls.best_fixed(grid, PRICE / POINTS)).low > 0


def test_stops_that_know_nothing_do_not_beat_themselves_shuffled():
    rng = np.random.default_rng(0)
    grid = small(rng.random((600, 6)) < 0.5)
    own = controls.random_budgets(grid, 1)[0]
    found = Reference(grid, PRICE, draws=300).beats(
        own, controls.averaged(controls.permuted(grid, own.stops, 0))
    )
    assert found.low < 0 < found.high


def test_scores_of_full_thinking_of_the_best_budget_and_of_the_oracle(checked):
    grid, own = checked
    reference = Reference(grid, PRICE, draws=200)
    full = reference.score(controls.fixed(grid, grid.energy_j.shape[1] - 1))
    assert (full.saved.value, full.gained.value) == pytest.approx((0.0, 0.0))
    fixed = reference.score(controls.best_fixed(grid, PRICE / POINTS))
    assert fixed.at_equal_joules.value == pytest.approx(0.0, abs=1e-9)
    assert fixed.closed.value == pytest.approx(0.0, abs=1e-9) and fixed.closed.high <= 1e-9
    oracle = reference.score(controls.first_stably_correct(grid))
    assert oracle.closed.value == pytest.approx(1.0)
    rule = reference.score(own)
    assert 0 < rule.closed.low < rule.closed.value < 1 and rule.at_equal_joules.low > 0
    assert rule.saved.low > 0.4 and rule.at_equal_accuracy.value > 0


def test_an_arm_cheaper_than_every_budget_has_no_place_on_the_hull():
    grid = small([[0, 1], [1, 1]])
    free = Outcome(np.zeros(2, int), np.full(2, 0.1), np.ones(2))
    assert np.isnan(Reference(grid, PRICE, draws=20).score(free).at_equal_joules.value)


def test_where_no_budget_leaves_a_gap_nothing_is_closed():
    """Always right at once: oracle and best budget are the same but for rounding."""
    rng = np.random.default_rng(0)
    joules = np.cumsum(1 + rng.random((200, 3)), axis=1)
    grid = Grid(joules, np.ones((200, 3)), np.arange(200), np.array(["recall"] * 200))
    full = Reference(grid, 148.0, draws=50).score(controls.fixed(grid, 2))
    assert np.isnan([full.closed.value, full.closed.low, full.closed.high]).all()


def test_nothing_gained_is_shown_without_a_sign_before_naught():
    assert shown(Estimate(-1e-17, -1e-16, 1e-16), POINTS, "+z.2f") == "+0.00 (+0.00 to +0.00)"
