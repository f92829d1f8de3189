import math
import random
from itertools import product
from statistics import mean, stdev

import pytest

from bench.calibration.induction import candidates, choose_axes, fit_category
from bench.calibration.replay import worth
from bench.testbed.optimal_stop import (
    EXACT_PASSES,
    Checker,
    measured,
    one_step_value,
    passes_without_change,
    simulate,
    solve,
    threshold,
)
from engine.stop.rule import POINTS
from tests.noisy_checks import ANSWER_J, CHECKER, LINE_J, check_runs

PERFECT = Checker(epsilon=0.5, fix=0.6, break_=0.0, passes=11)
COSTS = (0.001, 0.01, 0.03, 0.1, 0.25)


def enumerated(checker: Checker, cost: float) -> float:
    """The best value over all rules for two passes, by writing down every rule and every run."""
    assert checker.passes == 2
    best = -math.inf
    for first, after_same, after_changed in product((True, False), repeat=3):  # whether to stop there
        total = 0.0
        for right, one, two in product((True, False), repeat=3):
            chance = checker.first if right else checker.epsilon
            lines = [right]
            for moved in (one, two):
                rate = checker.break_ if lines[-1] else checker.fix
                chance *= rate if moved else 1 - rate
                lines.append(lines[-1] != moved)
            passes = 0 if first else 1 if (after_changed if one else after_same) else 2
            total += chance * (lines[passes] - cost * passes)
        best = max(best, total)
    return best


@pytest.mark.parametrize("cost", COSTS)
def test_the_exact_optimum_is_that_of_all_rules_written_down(cost):
    for checker in (Checker(0.5, 0.6, 0.02, 2), Checker(0.3, 0.4, 0.2, 2), Checker(0.8, 0.9, 0.0, 2)):
        assert solve(checker, cost).value == pytest.approx(enumerated(checker, cost), abs=1e-12)


@pytest.mark.parametrize("cost", COSTS)
def test_without_breaking_the_one_step_rule_is_optimal_and_has_a_closed_form(cost):
    best = solve(PERFECT, cost)
    assert one_step_value(PERFECT, cost) == pytest.approx(best.value, abs=1e-9)
    waits = passes_without_change(PERFECT, cost)
    for passes in range(PERFECT.passes):
        assert best.stops((False,) * passes) == (passes >= waits)
        assert best.stops((*(False,) * passes, True))  # repaired, and nothing breaks it again


def test_the_closed_form_refuses_passes_that_break():
    with pytest.raises(ValueError, match="break"):
        passes_without_change(CHECKER, 0.01)


def test_with_breaking_the_one_step_rule_loses_a_little_where_passes_are_cheap():
    lost = [solve(CHECKER, cost).value - one_step_value(CHECKER, cost) for cost in COSTS]
    assert all(-1e-9 < loss < 0.025 for loss in lost)
    assert lost[0] > 0.02  # passes are nearly free: it pays to wait for a break, and to repair it


def test_beliefs_are_the_shares_of_right_lines_that_a_simulation_finds():
    rng = random.Random(0)
    checker = Checker(0.5, 0.5, 0.1, 3, rewrite=0.2)
    by_history: dict[tuple[bool, ...], list[bool]] = {}
    for _ in range(20_000):
        right, changed = simulate(checker, rng)
        by_history.setdefault(tuple(changed), []).append(right[-1])
    for history, lines in by_history.items():
        belief = checker.first
        for change in history:
            belief = checker.after(belief, changed=change)
        assert abs(mean(lines) - belief) < 4 * math.sqrt(0.25 / len(lines))


@pytest.mark.parametrize("cost", [0.01, 0.05])
def test_the_optimum_is_worth_in_simulation_what_it_says(cost):
    best, rng = solve(CHECKER, cost), random.Random(1)
    values = []
    for _ in range(8_000):
        right, changed = simulate(CHECKER, rng)
        passes = next(n for n in range(CHECKER.passes + 1) if best.stops(tuple(changed[:n])))
        values.append(right[passes] - cost * passes)
    assert abs(mean(values) - best.value) < 4 * stdev(values) / math.sqrt(len(values))


def test_the_threshold_is_where_one_more_pass_gains_what_it_costs():
    at = threshold(CHECKER, 0.03)
    assert CHECKER.gain(at) == pytest.approx(0.03)


def test_measured_rates_are_those_of_the_chain():
    rng = random.Random(2)
    checker = Checker(0.4, 0.5, 0.1, 11, rewrite=0.2)
    found = measured([simulate(checker, rng) for _ in range(4000)])
    # A rewritten wrong line is another one for sure, so all four rates can be told.
    for name in ("epsilon", "fix", "break_", "rewrite"):
        assert getattr(found, name) == pytest.approx(getattr(checker, name), abs=0.03)
    assert found.passes == 11


def test_the_fitted_rule_comes_within_a_hundredth_of_the_optimum():
    runs, unseen = check_runs(CHECKER, 500, 1), check_runs(CHECKER, 3000, 2)
    axes = choose_axes(runs, candidates(runs)[:2])
    assert axes.stability
    rule = fit_category(runs, axes)
    for price in (1.0, 3.0, 8.0):
        cost = price / POINTS
        fixed_j = 0.5 + LINE_J + ANSWER_J  # what the attempt and the answer cost whatever is decided
        optimum = max(solve(CHECKER, cost * LINE_J).value - cost * fixed_j, 0.5 - cost * (0.5 + ANSWER_J))
        # On the same runs as the rule, so that luck does not count: the optimum's own stops.
        assert optimum - optimum_on(unseen, price) < 0.02
        assert optimum_on(unseen, price) - float(worth(unseen, rule, price).mean()) <= 0.01 * optimum


def optimum_on(runs, price: float) -> float:
    """What the exact optimum's stops are worth on these runs."""
    best = solve(CHECKER, price / POINTS * LINE_J)
    values = []
    for run in runs:
        changed = [at.stability == 1 for at in run.seen[2:]]
        passes = next(n for n in range(CHECKER.passes + 1) if best.stops(tuple(changed[:n])))
        entry = run.checkpoints[passes + 1]
        values.append(entry.correct - price / POINTS * (entry.energy_j + entry.answer_j))
    return mean(values)


def test_more_passes_than_a_tree_can_hold_are_worth_a_little_more_than_fewer():
    rates = {"epsilon": 0.5, "fix": 0.1, "break_": 0.01, "rewrite": 0.1}
    exact = solve(Checker(passes=EXACT_PASSES, **rates), 0.002).value
    beyond = [solve(Checker(passes=EXACT_PASSES + more, **rates), 0.002).value for more in (1, 44)]
    assert exact < beyond[0] + 1e-4 < beyond[1] + 2e-4
    assert beyond[0] == pytest.approx(exact, abs=0.02)
