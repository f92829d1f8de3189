"""What is booked, held against limits, taught and said where meters, servers or estimators tell less."""

from dataclasses import replace

import numpy as np
import pytest

from engine.energy.hourly import HourlyBudget
from engine.errors import MeterError
from engine.prefilled import ReadError
from router.arms import load_arms
from router.estimator import Certificate
from router.policy import Conditions, Limits
from router.router import Router
from tests import bad_server
from tests.bad_server import serving
from tests.router.planted_router import QUERY, arms_of, planted, reading, telling, told


def test_deciding_is_metered_from_the_end_of_reading_on(route, shared, tmp_path):
    router, calls = route(estimator=reading(shared, arms_of(tmp_path))), []
    meter_j, features = router.answerers.meter_j, router.answerers.features
    router.answerers.meter_j = lambda: calls.append("meter") or meter_j()
    router.answerers.features = lambda *those: calls.append("features") or features(*those)
    routed = router.answer(QUERY)
    assert calls == ["meter", "features", "meter"] and routed.router_j >= 0


@pytest.mark.parametrize("dies", [1, 2])
def test_a_meter_that_dies_while_an_arm_is_chosen_costs_no_answer(route, shared, tmp_path, dies):
    router, reads = route(estimator=reading(shared, arms_of(tmp_path), ask=0.1)), []

    def meter_j() -> float:
        reads.append(1)
        if len(reads) == dies:
            raise MeterError("the meter is gone")
        return 1.0

    router.answerers.meter_j = meter_j
    routed = router.answer(QUERY)
    assert routed.answer == "64" and routed.choices[0].fallback is None
    assert routed.router_j is None and not routed.energy()["complete"]
    assert any("the meter is gone" in note for note in routed.notes)


def test_joules_of_a_reading_that_failed_are_on_the_ledger(route, shared, tmp_path):
    router = route(estimator=reading(shared, arms_of(tmp_path)))

    def read(query: str) -> None:
        raise ReadError("out of memory", 0.5)

    router.answerers.read = read
    routed = router.answer(QUERY)
    assert routed.answer == "64" and "out of memory" in (routed.choices[0].fallback or "")
    assert routed.energy()["features_j"] == 0.5
    assert routed.total_j == pytest.approx(0.5 + routed.stages[0].energy_j)


def test_a_reading_whose_meter_failed_is_not_complete_and_teaches_nothing(route, shared, tmp_path):
    router = route(estimator=reading(shared, arms_of(tmp_path), ask=0.1, vote=0.1))
    known, spread = shared.answerers.read(QUERY), router.estimator.energy.spread
    router.answerers.read = lambda query: replace(known, energy=replace(known.energy, complete=False))
    routed = router.answer(QUERY)
    assert routed.answer == "64" and routed.stages[0].reused_tokens
    assert routed.features_j is None and not routed.energy()["complete"]
    assert router.estimator.energy.spread is spread


def test_an_arm_that_pressure_cut_is_believed_as_it_was_chosen(route, monkeypatch):
    seen: list[float] = []
    monkeypatch.setattr("router.router.escalate", lambda p_now, *_: seen.append(p_now))
    routed = route(ask=0.1).answer(QUERY, conditions=Conditions(queue=1))
    assert (routed.choices[0].arm, routed.choices[0].budget_tokens) == ("think", 32)
    assert seen == [pytest.approx(0.6)] == [routed.choices[0].p], "a third of the way from brief to think"


def test_unknown_joules_of_a_stage_count_as_nine_in_ten_against_limits_and_the_hour(route):
    with serving(bad_server.broken) as server:
        router = route(server.url)
        router.hour = HourlyBudget(100.0)
        routed = router.answer(QUERY, Limits(joules=2.9))
    assert [stage.arm for stage in routed.stages] == ["ask", "brief"], "1.4 J are left, thinking may take 1.5"
    assert routed.booked_j == pytest.approx(1.5) and any("count 1.5 J" in note for note in routed.notes)
    assert router.hour.left_j() == pytest.approx(100 - 1.5 - routed.total_j)
    assert routed.total_j == pytest.approx(routed.stages[1].energy_j), "the ledger holds what is known"


def test_after_one_server_that_hangs_the_next_has_its_own_time(tmp_path):
    with serving(bad_server.silent) as slow, serving(bad_server.good) as fast:
        models = "".join(
            f'[models.{name}]\nbase_url = "{server.url}"\nserved = "x"\ntimeout_s = 0.4\nretries = 0\n'
            f'[[arms]]\nname = "{name}"\nmodel = "{name}"\ntechnique = "direct"\n'
            for name, server in (("slow", slow), ("fast", fast))
        )
        (tmp_path / "two.toml").write_text(f'fallback = "slow"\n{models}')
        with Router(load_arms(tmp_path / "two.toml")) as router:
            routed = router.answer(QUERY, Limits(latency_s=0.3))
    assert ([stage.arm for stage in routed.stages], routed.answer) == (["slow", "fast"], "42")
    assert "slow is not held to the 0.3 s" in " ".join(routed.notes)


def test_who_knows_nothing_is_cut_at_the_joules_that_are_left(route, tmp_path):
    router = route(estimator=replace(planted(arms_of(tmp_path)), digest="of others"))
    asked = told(router)
    routed = router.answer(QUERY, Limits(joules=2.0))
    assert asked[0]["budget_joules"] == 2.0 and "cut at the 2 J" in " ".join(routed.notes)
    routed = router.answer(QUERY, Limits(joules=0.0))
    assert asked[1]["budget_joules"] is None and "not held to the 0 J" in " ".join(routed.notes)
    other = replace(planted(arms_of(tmp_path)), digest="of others")
    routed = route(estimator=other).answer(QUERY, Limits(joules=1e-6))
    assert routed.answer == "64" and "think is not held to that" in " ".join(routed.notes)
    routed = route().answer(QUERY, Limits(joules=1e-6))
    assert "guess is not held to the 1e-06 J" in " ".join(routed.notes)


def test_a_limit_of_grams_is_one_of_joules(route):
    router = route(ask=0.1)
    asked, now = told(router), Conditions(intensity_g_per_kwh=360.0, pue=1.5)
    router.answer(QUERY, Limits(grams=2.0 * 150e-6), now)
    assert asked[0]["budget_joules"] == pytest.approx(2.0)


@pytest.mark.parametrize("cut", [True, False])
def test_a_stage_that_its_joule_budget_cut_teaches_nothing(route, cut):
    router = route(ask=0.1, vote=0.1)
    told(router, cut=cut)
    before = router.estimator.energy
    router.answer(QUERY)
    assert (router.estimator.energy is before) == cut


def test_what_left_the_certified_rule_is_said(route, tmp_path):
    scale = np.array([1.0, 1.0, 1.0, 0.1, 1.0])  # by which the vote is the cheapest of those above 0.75
    certificate = Certificate(0.7, 0.1, 0.75, scale)
    estimator = replace(planted(arms_of(tmp_path), ask=0.1), certificate=certificate)
    limits = Limits(threshold=0.75)
    router = route(estimator=estimator)
    told(router, cut=True)  # so that it learns nothing on the way
    kept = router.answer(QUERY, limits)
    assert kept.choices[0].arm == "vote", "the rule ranks by what it was certified with"
    assert not any("certified" in note for note in kept.notes)
    for more, now, said in (
        ({"joules": 2.0}, Conditions(), "limits took arms away"),
        ({}, Conditions(queue=1), "budgets were tightened"),
    ):
        routed = router.answer(QUERY, replace(limits, **more), now)
        assert any("not by the certified rule" in note and said in note for note in routed.notes)
    weak = replace(estimator, stage=telling(arms_of(tmp_path), 0.2))
    further = route(estimator=weak)
    told(further, confidence=0.5)
    assert any("a further arm was asked" in note for note in further.answer(QUERY, limits).notes)
    assert not any("certified" in note for note in further.answer(QUERY).notes), "nobody asked for it"
