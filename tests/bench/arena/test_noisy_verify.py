import pytest

from bench.arena.noisy_verify import regret
from bench.calibration.induction import fit_category
from bench.calibration.replay import at_stops, replay
from bench.testbed.optimal_stop import Checker
from engine.errors import TokenjouleError
from engine.stop.rule import Axes
from tests.noisy_checks import CHECKER, check_runs

PRICE = 3.0


def test_the_rates_are_found_and_a_fitted_rule_is_close_to_their_optimum():
    runs = check_runs(CHECKER, 1000, 0)
    rule = fit_category(check_runs(CHECKER, 500, 1), Axes(stability=(2.0, 3.0, 4.0, 5.0, 6.0)))
    found = regret(runs, replay(runs, rule, PRICE), PRICE)
    assert found.checker.fix == pytest.approx(CHECKER.fix, abs=0.05)
    assert found.checker.epsilon == pytest.approx(CHECKER.epsilon, abs=0.05)
    assert abs(found.share) < 0.03


def test_thinking_to_the_end_is_far_from_it():
    runs = check_runs(CHECKER, 500, 2)
    assert regret(runs, at_stops(runs, [99] * len(runs)), PRICE).share > 0.2


def test_where_joules_are_dear_the_optimum_does_not_think():
    runs = check_runs(CHECKER, 500, 3)
    direct = at_stops(runs, [0] * len(runs))
    assert regret(runs, direct, 60.0).share == pytest.approx(0.0)


def test_runs_that_are_always_right_show_no_chain():
    runs = check_runs(Checker(0.0, 0.5, 0.0, 4), 20, 4)
    with pytest.raises(TokenjouleError, match="transitions"):
        regret(runs, at_stops(runs, [0] * 20), PRICE)
