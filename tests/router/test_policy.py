import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from engine.energy.grid import Grid
from router.policy import (
    Conditions,
    Estimate,
    Limits,
    after,
    allowed_j,
    cheapest_certain,
    choose,
    escalate,
    most_accurate,
    picked,
    priced,
    tightened,
)

P = np.array([[0.5, 0.8, 0.9], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]])
J = np.array([[1.0, 2.0, 10.0], [1.0, 2.0, 10.0], [1.0, 2.0, 10.0]])


def estimate(arm: str, p: float, j: float | None, *, tokens: int = 0, late: float | None = None) -> Estimate:
    q90 = None if j is None else 1.5 * j
    return Estimate(arm, "m", tokens, p, p - 0.1, min(p + 0.1, 1), j, j, q90, late)


ARMS = [estimate("small", 0.5, 1.0), estimate("middle", 0.8, 2.0), estimate("large", 0.9, 10.0)]


NO_LIMITS, USUAL = Limits(), Conditions()


def chosen(limits: Limits = NO_LIMITS, conditions: Conditions = USUAL, arms=ARMS, **more):
    return choose(arms, limits, conditions, fallback="large", **more)


def test_it_imports_nothing_heavier_than_numpy():
    code = (
        "import sys, router.policy\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'httpx', 'engine', 'numba'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_likeliest_of_equals_is_the_cheapest():
    assert most_accurate(P, J).tolist() == [2, 0, 2]


def test_the_cheapest_that_is_certain_enough_else_the_likeliest():
    assert cheapest_certain(P, J, 0.75).tolist() == [1, 0, 2]


def test_an_arm_that_cannot_be_had_is_never_chosen():
    p, j = P.copy(), J.copy()
    p[0, 2] = j[0, 2] = np.nan
    j[0, 0] = p[0, 0] = np.nan
    for arms in (most_accurate(p, j), cheapest_certain(p, j, 0.1), priced(p, j, 1.0)):
        assert arms[0] == 1


def test_a_price_moves_choices_towards_the_cheap():
    spent = [picked(J, priced(P, J, price)).mean() for price in (0.0, 0.5, 2.0, 20.0, 100.0)]
    assert all(a >= b for a, b in pairwise(spent))
    assert (spent[0], spent[-1]) == (7.0, 1.0)


@pytest.mark.parametrize(
    ("limits", "arm"),
    [
        (Limits(), "large"),
        (Limits(joules=5), "middle"),
        (Limits(hourly_left_j=2), "small"),
        (Limits(threshold=0.7), "middle"),
        (Limits(threshold=0.99), "large"),
        (Limits(price=2.0), "middle"),
        (Limits(price=50.0), "small"),
    ],
)
def test_limits_and_prices_decide(limits, arm):
    found = chosen(limits)
    assert (found.arm, found.fallback) == (arm, None)


def test_what_limits_removed_is_said():
    removed = chosen(Limits(joules=5)).removed
    assert list(removed) == ["large"] and "15 J" in removed["large"]


def test_a_limit_that_cannot_be_checked_is_not_kept():
    arms = [replace(one, elapsed_q90_s=1.0) if one.arm == "small" else one for one in ARMS]
    found = chosen(Limits(latency_s=2.0), arms=arms)
    assert found.arm == "small" and "cannot be checked" in found.removed["large"]


def test_grams_are_joules_times_intensity_and_overhead():
    conditions = Conditions(intensity_g_per_kwh=360.0, pue=1.5)
    assert conditions.grams(1e6) == pytest.approx(150.0)
    assert chosen(Limits(grams=5 * 150e-6), conditions).arm == "middle"
    assert "cannot be checked" in chosen(Limits(grams=1.0)).removed["small"]


def test_intensity_alone_never_changes_the_ranking():
    for intensity in (10.0, 400.0, 1000.0):
        assert chosen(Limits(threshold=0.7), Conditions(intensity_g_per_kwh=intensity)).arm == "middle"


def test_where_no_arm_keeps_the_limits_the_least_answers_and_says_so():
    found = chosen(Limits(joules=0.1))
    assert found.arm == "small" and found.fallback is not None
    assert set(found.removed) == {"small", "middle", "large"}


def test_strict_rather_answers_nothing():
    found = chosen(Limits(joules=0.1, strict=True))
    assert found.arm is None and "infeasible" in found.why
    blind = chosen(Limits(joules=5, strict=True), blind="no estimator")
    assert blind.arm is None
    assert chosen(Limits(strict=True), blind="no estimator").arm == "large"


def test_who_knows_nothing_takes_the_best_fixed_arm():
    found = chosen(blind="there is no estimator")
    assert (found.arm, found.why, found.p) == ("large", "the best fixed arm", None)
    assert found.fallback == "there is no estimator"
    gone = chosen(arms=ARMS[:2], blind="x")
    assert (gone.arm, gone.why) == ("small", "the first that is left")


def family(budgets: tuple[int, ...]) -> list[Estimate]:
    return [estimate(f"cot-{n}", 0.4 + 0.1 * k, 0.1 * n, tokens=n) for k, n in enumerate(budgets)]


@pytest.mark.parametrize(
    "rising",
    [
        [Conditions(queue=queue) for queue in range(12)],
        [Conditions(utilisation=share / 10) for share in range(11)],
        [Conditions(intensity_g_per_kwh=g, usual_g_per_kwh=200.0) for g in range(0, 1200, 50)],
        [Conditions(hourly_share=share / 20) for share in range(20, -1, -1)],
    ],
    ids=["queue", "utilisation", "intensity", "hourly budget"],
)
def test_token_budgets_tighten_monotonically(rising):
    arms = family((16, 32, 64, 128))
    pressures = [now.pressure for now in rising]
    assert all(a <= b for a, b in pairwise(pressures)) and pressures[0] == 1.0 and pressures[-1] > 1.5
    allowed = [{one.arm: one.budget_tokens for one in tightened(arms, p)[0]} for p in pressures]
    assert all(b.get(arm, 0) <= a.get(arm, 0) for a, b in pairwise(allowed) for arm in b)
    budgets = [chosen(conditions=now, arms=arms).budget_tokens for now in rising]
    assert all(a >= b for a, b in pairwise(budgets)) and budgets[0] == 128 > budgets[-1] >= 16


def test_the_accuracy_that_is_given_up_is_told():
    assert chosen().given_up == 0.0
    assert chosen(Limits(joules=5)).given_up == pytest.approx(0.1)
    assert chosen(Limits(joules=0.1)).given_up == pytest.approx(0.4)
    assert chosen(blind="x").given_up is None
    lost = [chosen(conditions=Conditions(queue=q), arms=family((16, 32, 64, 128))).given_up for q in range(5)]
    assert all(a <= b for a, b in pairwise(lost)) and lost[0] == 0.0 < lost[-1]


def test_an_arm_is_cut_and_believed_to_lie_between_its_neighbours():
    kept, removed = tightened(family((16, 64, 128)), 1.28)
    assert [(one.arm, one.budget_tokens) for one in kept] == [
        ("cot-16", 16),
        ("cot-64", 64),
        ("cot-128", 100),
    ]
    assert removed == {}
    assert kept[2].p == pytest.approx(0.5 + (100 - 64) / 64 * 0.1)
    assert kept[2].energy_j == pytest.approx(10.0)


def test_an_arm_with_nothing_below_it_goes_and_the_last_of_all_is_cut():
    direct = replace(estimate("direct", 0.2, 0.1), family="d")
    kept, removed = tightened([*family((64, 128)), direct], 4.0)
    assert [one.arm for one in kept] == ["direct"] and set(removed) == {"cot-64", "cot-128"}
    kept, _ = tightened(family((64, 128)), 4.0)
    assert [(one.arm, one.budget_tokens) for one in kept] == [("cot-64", 16)]


def test_what_pressure_took_away_does_not_come_back_with_a_further_stage():
    arms, now = family((16, 64, 128)), Conditions(queue=3)
    first = chosen(conditions=now, arms=arms)
    assert (first.arm, first.budget_tokens, list(first.removed)) == ("cot-64", 32, ["cot-128"])
    assert escalate(0.1, arms, Limits(), now, {"cot-64"}).arm == "cot-16"
    assert chosen(conditions=now, arms=arms, tried={"cot-64"}).arm == "cot-16"
    last = chosen(conditions=now, arms=arms, tried={"cot-16", "cot-64"})
    assert (last.arm, last.budget_tokens) == ("cot-128", 32), "rather it than no answer"


def test_a_cut_arm_is_chosen_with_the_chance_of_so_few_tokens():
    found = chosen(conditions=Conditions(queue=3), arms=family((16, 64, 128)))
    assert found.p == pytest.approx(0.4 + (32 - 16) / 48 * 0.1)
    assert chosen(Limits(joules=5)).p == 0.8


def test_at_a_price_an_arm_of_unknown_joules_is_no_further_stage():
    rest = [replace(ARMS[2], energy_j=None)]
    assert escalate(0.3, rest, Limits(price=1.0), Conditions()) is None
    assert escalate(0.3, rest, Limits(), Conditions()).arm == "large"


def test_joules_that_are_not_known_are_dearer_than_any():
    j = J.copy()
    j[0, 2] = j[1, 0] = np.nan
    j[2] = np.nan
    assert most_accurate(P, j).tolist() == [2, 1, 2]
    assert cheapest_certain(P, j, 0.85).tolist() == [2, 1, 2]
    assert priced(P, j, 1.0).tolist() == [1, 1, 2], "of none that is known the likeliest"
    assert priced(P, j, 0.0).tolist() == [2, 0, 2]


def test_the_fewest_joules_that_any_limit_leaves():
    now = Conditions(intensity_g_per_kwh=360.0, pue=1.5)
    assert allowed_j(Limits(grams=150.0), now) == pytest.approx(1e6)
    assert allowed_j(Limits(grams=150.0, joules=7.0, hourly_left_j=5.0), now) == 5.0
    assert allowed_j(Limits(grams=150.0), Conditions(intensity_g_per_kwh=0.0)) is None
    assert allowed_j(Limits(latency_s=1.0), now) is None


def test_a_certified_threshold_ranks_arms_by_what_it_was_certified_with():
    ranked = [replace(one, rank_j=rank) for one, rank in zip(ARMS, (3.0, 2.0, 1.0), strict=True)]
    assert chosen(Limits(threshold=0.7), arms=ranked).arm == "large"
    assert chosen(Limits(price=2.0), arms=ranked).arm == "middle", "a price is of expected joules"
    lacking = [replace(ARMS[1], rank_j=None), *ranked[::2]]
    assert chosen(Limits(threshold=0.7), arms=lacking).arm == "large", "none is dearer than what is not known"


def test_a_further_stage_has_to_gain_and_to_fit():
    rest = ARMS[1:]
    assert escalate(0.3, rest, Limits(), Conditions()).arm == "large"
    assert escalate(0.89, rest, Limits(), Conditions()) is None, "too little to gain"
    assert escalate(0.3, rest, Limits(joules=5), Conditions()).arm == "middle"
    assert escalate(0.3, rest, Limits(joules=1), Conditions()) is None
    assert escalate(0.3, rest, Limits(price=20.0), Conditions()).arm == "middle"
    assert escalate(0.3, rest, Limits(price=100.0), Conditions()) is None
    assert escalate(0.75, rest, Limits(threshold=0.7), Conditions()) is None
    assert escalate(0.3, [], Limits(), Conditions()) is None


def test_a_stage_takes_from_every_limit():
    limits = Limits(joules=10, latency_s=5, grams=1.0, hourly_left_j=20)
    left = after(limits, Conditions(intensity_g_per_kwh=3.6e6), spent_j=0.25, spent_s=2.0)
    assert (left.joules, left.latency_s, left.grams, left.hourly_left_j) == (9.75, 3.0, 0.75, 19.75)
    assert after(limits, Conditions(), spent_j=99, spent_s=99).joules == 0.0


@pytest.mark.parametrize("wrong", [{"joules": -1.0}, {"price": float("nan")}, {"threshold": float("inf")}])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        Limits(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"queue": -1}, {"utilisation": 1.2}, {"pue": 0.5}, {"usual_g_per_kwh": -1.0}]
)
def test_conditions_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        Conditions(**wrong)


def test_a_recorded_series_that_rises_makes_thinking_shorter_and_keeps_the_limit_in_grams(tmp_path):
    hours = range(0, 10)
    rows = [f"2026-03-01T{hour:02}:00:00Z,{100 + 60 * hour}" for hour in hours]
    (tmp_path / "grid.csv").write_text("time,average_g_per_kwh\n" + "\n".join(rows))
    arms = [Estimate(f"cot-{n}", "cot", n, n / 300, 0, 1, 1000.0 * n, 0, 1500.0 * n) for n in (16, 64, 256)]
    limits, budgets, given_up = Limits(grams=60.0), [], []
    for hour in hours:
        now = datetime(2026, 3, 1, hour, 30, tzinfo=UTC)
        grams = Grid(str(tmp_path / "grid.csv"), clock=lambda now=now: now).now().g_per_kwh
        conditions = Conditions(intensity_g_per_kwh=grams, usual_g_per_kwh=100.0)
        found = choose(arms, limits, conditions, fallback="cot-16")
        assert found.fallback is None
        assert conditions.grams(1500.0 * found.budget_tokens) <= 60.0
        budgets.append(found.budget_tokens)
        given_up.append(found.given_up)
    assert budgets == sorted(budgets, reverse=True) and budgets[0] == 256 and budgets[-1] < 64
    assert given_up == sorted(given_up) and given_up[0] == 0.0 < given_up[-1]
