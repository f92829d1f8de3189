import math
from dataclasses import replace

import numpy as np
import pytest

from bench.arena.noisy_verify import regret
from bench.calibration.grid import Grid
from bench.calibration.induction import candidates, choose_axes, fit_category, prices
from bench.calibration.log import Trace
from bench.calibration.price import default_price, held_out
from bench.calibration.replay import at_stops, replay, worth
from bench.testbed.optimal_stop import Checker
from bench.testbed.verify import RATES
from engine.price import price_for_budget
from engine.stop.rule import ANY, Axes
from tests.noisy_checks import CHECKER, check_runs, entry

PLAIN, STABLE = Axes(), Axes(stability=(2.0, 3.0, 4.0, 5.0, 6.0))


def useless(count: int, seed: int) -> list[Trace]:
    """Thinking that costs and never helps: every answer is right with one half, whatever was seen."""
    rng = np.random.default_rng(seed)
    return [
        Trace(
            tuple(
                entry(
                    "recall",
                    i,
                    checkpoint=k,
                    correct=bool(right),
                    energy_j=float(k),
                    stability=k % 2,
                    tail=str(k),
                )
                for k in range(6)
            ),
            entry("recall", i, checkpoint=6, correct=bool(right), energy_j=5.5, closed=True, confidence=None),
        )
        for i, right in enumerate(rng.random(count) < 0.5)
    ]


def test_without_smoothing_a_state_is_the_mean_of_its_runs():
    runs = check_runs(CHECKER, 300, 0)
    rule = fit_category(runs, STABLE, near=0.0)
    coarse = {state.checkpoint: state for state in rule.states if state.cell == ANY}
    grid = Grid.of(runs)
    for number, state in coarse.items():
        assert state.runs == 300
        assert state.correct == pytest.approx(grid.correct[:, number].mean())
    assert coarse[12].closes == 1.0 and coarse[0].closes == 0.0
    assert coarse[3].onward_j == pytest.approx(1.0)


def test_a_rare_state_is_drawn_towards_its_neighbours():
    runs = check_runs(CHECKER, 40, 0)
    plain = fit_category(runs, STABLE, near=0.0)
    smooth = fit_category(runs, STABLE)
    spread = [
        np.std([s.correct for s in rule.states if s.cell[:1] == (0,) and s.checkpoint > 2])
        for rule in (plain, smooth)
    ]
    assert spread[1] < spread[0]


def test_stability_is_found_to_matter_for_checks_and_nothing_where_nothing_does():
    among = [PLAIN, STABLE]
    assert choose_axes(check_runs(CHECKER, 200, 1), among) == STABLE
    assert choose_axes(useless(200, 0), among) == PLAIN


def test_where_thinking_does_not_help_the_rule_answers_at_once():
    runs = useless(200, 1)
    outcome = replay(runs, fit_category(runs, PLAIN), 0.5)
    assert set(outcome.stops) == {0}


def test_joules_that_cost_nothing_are_all_spent_where_they_help():
    runs = check_runs(CHECKER, 300, 2)
    free = replay(runs, fit_category(runs, STABLE), 0.0)
    dear = replay(runs, fit_category(runs, STABLE), 50.0)
    assert free.energy_j.mean() > 3 * dear.energy_j.mean()
    assert free.correct.mean() > dear.correct.mean()


def test_held_out_outcomes_come_from_rules_that_saw_other_questions():
    # Every question is its own world: a rule that had seen it would know when it is right.
    rng = np.random.default_rng(3)
    runs = useless(120, 4)
    axes = Axes(size=tuple(float(size) for size in range(1, 120)))
    runs = [
        Trace(
            tuple(
                replace(e, prompt_tokens=i, correct=bool(r))
                for e, r in zip(run.checkpoints, right, strict=True)
            ),
            replace(run.end, prompt_tokens=i),
        )
        for i, (run, right) in enumerate(zip(runs, rng.random((120, 6)) < 0.5, strict=True))
    ]
    own = worth(runs, fit_category(runs, axes, near=0.0), 0.5).mean()
    fair = held_out(runs, {"recall": axes}, [0.5])[0].utility(0.5).mean()
    assert own > fair + 0.1


def test_the_default_price_saves_joules_and_loses_at_most_what_is_allowed():
    runs = check_runs(CHECKER, 400, 5)
    price = default_price(runs, {"verify": STABLE})
    rule = fit_category(runs, STABLE)
    unseen = check_runs(CHECKER, 2000, 6)
    full = at_stops(unseen, [99] * len(unseen))
    found = replay(unseen, rule, price)
    assert price > 0
    assert found.correct.mean() > full.correct.mean() - 0.01
    assert found.energy_j.mean() < 0.6 * full.energy_j.mean()


def test_a_budget_becomes_the_price_that_keeps_it():
    runs = check_runs(CHECKER, 100, 7)
    rule = fit_category(runs, STABLE)

    def mean_j(price: float) -> float:
        return float(replay(runs, rule, price).energy_j.mean())

    price = price_for_budget(mean_j, 4.0)
    assert mean_j(price) <= 4.0 < mean_j(0.9999 * price)
    assert price_for_budget(mean_j, 0.1) == math.inf


def telling(runs: list[Trace], seed: int) -> list[Trace]:
    """With surprisals, mostly high where the line is wrong."""
    rng = np.random.default_rng(seed)

    def told(run: Trace) -> Trace:
        found = [
            replace(at, surprisal=float(rng.exponential(0.05 if at.correct else 2.0)))
            for at in run.checkpoints
        ]
        return replace(run, checkpoints=tuple(found))

    return list(map(told, runs))


def test_what_tokens_surprise_tells_is_used_where_it_tells_something():
    blind = check_runs(CHECKER, 300, 4)
    runs, unseen = telling(blind, 0), telling(check_runs(CHECKER, 300, 5), 1)
    assert all(not axes.needs for axes in candidates(blind)), "a log without them"
    chosen = choose_axes(runs, candidates(runs))
    assert chosen.surprisal and chosen.needs == {"logprob"}
    price = 3.0
    seeing, plain = (worth(unseen, fit_category(runs, axes), price).mean() for axes in (chosen, STABLE))
    assert seeing > plain + 0.01


def test_probes_are_on_the_bill_of_a_rule_that_asks_for_them():
    runs = check_runs(CHECKER, 200, 8)
    [axes, *_] = [axes for axes in candidates(runs, probes=True)]
    probing = replace(axes, confidence=(0.4,))
    outcome = replay(runs, fit_category(runs, probing), 1.0)
    plain = at_stops(runs, outcome.stops)
    probes = [
        0.1 * min(stop + 1, len(run.checkpoints)) for run, stop in zip(runs, outcome.stops, strict=True)
    ]
    assert list(outcome.energy_j - plain.energy_j) == pytest.approx(probes)


def test_prices_reach_from_where_everything_pays_to_where_nothing_does():
    runs = check_runs(CHECKER, 200, 9)
    grid, rule = Grid.of(runs), fit_category(runs, STABLE)
    least, *_, most = prices(grid)
    assert replay(runs, rule, float(most)).energy_j.mean() < grid.energy_j.mean(axis=0)[2]
    assert replay(runs, rule, float(least)).energy_j.mean() > grid.energy_j.mean(axis=0)[4]


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.3, 3.0])
def test_a_rule_of_500_runs_of_the_frozen_checker_is_within_a_hundredth_of_the_exact_optimum(price):
    # On average over three calibrations; LINE_J is 1, so that a price of 1 is a hundredth for a pass.
    checker = Checker(RATES.epsilon, RATES.fix, RATES.break_, RATES.lines - 1)
    unseen = check_runs(checker, 4000, 99)
    lost = []
    for seed in range(3):
        rule = fit_category(check_runs(checker, 500, seed), STABLE)
        lost.append(regret(unseen, replay(unseen, rule, price), price).share)
    assert np.mean(lost) <= 0.01 and max(lost) <= 0.015
