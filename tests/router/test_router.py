"""Whole queries on the bundled model and on a server, with estimates that are planted."""

import time
from dataclasses import replace

import numpy as np
import pytest

from engine.energy.hourly import HourlyBudget
from engine.errors import MeterError, TokenjouleError
from router.policy import Conditions, Limits
from router.router import Router
from tests import bad_server
from tests.bad_server import serving
from tests.router.planted_router import QUERY, arms_of, planted, reading, telling


def test_the_likeliest_answers_within_its_limit(route):
    routed = route(ask=0.1).answer(QUERY, Limits(joules=2.0))
    assert routed.choices[0].arm == "think" and routed.choices[0].fallback is None
    assert routed.answer == "64"
    assert set(routed.choices[0].removed) == {"vote"}
    energy = routed.energy()
    assert energy["total_j"] == pytest.approx(energy["answer_j"])
    assert energy["router_j"] is None and not energy["complete"], "no meter watched the choice"
    assert (energy["source"], energy["measured"]) == ("estimate", False)


def test_a_server_answers_with_its_joules_by_the_table(route):
    with serving(bad_server.good) as server:
        routed = route(server.url).answer(QUERY)
    assert (routed.choices[0].arm, routed.answer) == ("ask", "42")
    assert routed.energy()["answer_j"] == pytest.approx(7.5)
    assert next(one.energy_j for one in routed.estimates if one.arm == "ask") == pytest.approx(1.0)


@pytest.mark.parametrize("reply", bad_server.MISBEHAVIOURS, ids=lambda reply: reply.__name__)
def test_whatever_a_server_does_the_query_is_answered(route, reply):
    begun_s = time.monotonic()
    with serving(reply) as server:
        routed = route(server.url).answer(QUERY)
    assert time.monotonic() - begun_s < 10
    assert [stage.arm for stage in routed.stages] == ["ask", "vote"]
    assert routed.answer == "64" and any(note.startswith("ask failed") for note in routed.notes)
    energy = routed.energy()
    assert energy["answer_j"] > 0
    unknown = [note for note in routed.notes if note.startswith("joules of ask are not known")]
    assert bool(unknown) == (routed.stages[0].energy_j is None)


def test_joules_of_a_failed_stage_are_on_the_ledger(route):
    with serving(bad_server.textless) as server:
        routed = route(server.url).answer(QUERY)
    energy = routed.energy()
    assert energy["failed_j"] == pytest.approx(7.5)
    assert energy["total_j"] == pytest.approx(energy["failed_j"] + energy["answer_j"])


def test_a_failed_stage_leaves_less_of_the_budget(route):
    with serving(bad_server.textless) as server:
        routed = route(server.url, ask=0.99).answer(QUERY, Limits(joules=8.6))
    assert [stage.arm for stage in routed.stages] == ["ask", "brief"], "1.1 J are left, thinking may take 1.5"


def test_the_features_prefill_is_the_answers_where_its_model_is_chosen(route, shared, tmp_path):
    router = route(estimator=reading(shared, arms_of(tmp_path), ask=0.1, vote=0.1))
    routed = router.answer(QUERY)
    energy = routed.energy()
    assert routed.choices[0].arm == "think" and routed.answer == "64"
    assert routed.stages[0].reused_tokens == len(shared.answerers.pool.engine("near").encode(QUERY))
    assert energy["prefill_reused"] and energy["features_j"] == 0.0
    assert energy["answer_j"] == pytest.approx(routed.stages[0].energy_j + routed.features_j)
    assert energy["total_j"] == pytest.approx(energy["answer_j"] + energy["router_j"])


def test_it_is_charged_as_features_where_another_is(route, shared, tmp_path):
    with serving(bad_server.good) as server:
        arms = arms_of(tmp_path, server.url)
        router = route(server.url, reading(shared, arms))
        energy = router.answer(QUERY).energy()
    assert not energy["prefill_reused"] and energy["features_j"] > 0
    assert energy["total_j"] == pytest.approx(energy["features_j"] + energy["router_j"] + 7.5)


def test_an_estimator_for_other_arms_is_not_used_and_the_reason_said(route, tmp_path):
    router = route(estimator=replace(planted(arms_of(tmp_path)), digest="of others"))
    routed = router.answer(QUERY)
    assert routed.choices[0].arm == "think" and "other arms" in (routed.choices[0].fallback or "")
    assert routed.answer == "64"


def test_a_query_unlike_those_calibrated_on_goes_to_the_best_fixed_arm(route, tmp_path):
    estimator = planted(arms_of(tmp_path))
    near = replace(estimator.performance.projection, reach=0.01)
    estimator = replace(estimator, performance=replace(estimator.performance, projection=near))
    routed = route(estimator=estimator).answer(QUERY)
    assert "unlike" in (routed.choices[0].fallback or "") and routed.answer == "64"


def test_features_of_another_model_are_not_mistaken_for_these(route, tmp_path):
    router = route(estimator=planted(arms_of(tmp_path), features="other/1/none/0,1", width=5))
    routed = router.answer(QUERY)
    assert "could not be read" in (routed.choices[0].fallback or "") and routed.answer == "64"


def test_without_an_estimator_the_fallback_of_the_file_answers(shared):
    routed = shared.answer(QUERY)
    assert (routed.choices[0].arm, routed.choices[0].fallback) == ("think", "there is no estimator")
    assert routed.answer == "64" and routed.to_json()["estimates"][0]["p"] is None


def test_no_meter_is_an_estimate_that_says_so(tmp_path, monkeypatch, shared):
    def no_meter(*_: object, energy_source: str = "auto", **__: object):
        if energy_source != "estimate":
            raise MeterError("NVML is not here")
        return shared.answerers.pool.engine("near")

    router = Router(arms_of(tmp_path), energy_source="nvml")
    router.answerers.pool._load = no_meter
    routed = router.answer(QUERY)
    assert routed.answer == "64" and any("NVML is not here" in note for note in routed.notes)
    assert routed.energy()["source"] == "estimate"


def test_a_budget_that_no_arm_can_keep_is_answered_by_the_least_or_strictly_not_at_all(route):
    routed = route().answer(QUERY, Limits(joules=1e-6))
    assert routed.choices[0].arm == "guess" and routed.choices[0].fallback and routed.answer is not None
    strict = route().answer(QUERY, Limits(joules=1e-6, strict=True))
    assert strict.answer is None and strict.stages == [] and "infeasible" in strict.choices[0].why


def test_a_weak_answer_goes_on_to_the_next_arm_while_that_pays(route, tmp_path):
    arms = arms_of(tmp_path)
    estimator = replace(planted(arms, ask=0.1), stage=telling(arms, 0.2))
    routed = route(estimator=estimator).answer(QUERY, Limits(joules=2.0))
    assert [stage.arm for stage in routed.stages] == ["think", "brief", "guess"]
    energy = routed.energy()
    assert energy["failed_j"] > 0 and energy["total_j"] <= 2.0
    assert energy["total_j"] == pytest.approx(sum(stage.energy_j for stage in routed.stages))
    dear = route(estimator=estimator).answer(QUERY, Limits(joules=2.0, price=1000.0))
    assert [stage.arm for stage in dear.stages] == ["guess"]


def test_ledgers_of_finished_requests_teach_the_estimator(route):
    router = route(ask=0.1, vote=0.1)
    before = router.estimator.energy.spread[0].copy()
    for _ in range(3):
        router.answer(QUERY)
    after = router.estimator.energy.spread[0]
    think = router.estimator.arms.index("think")
    assert after[think] != before[think] and (np.delete(after, think) == np.delete(before, think)).all()


def test_an_hour_holds_its_joules_and_budgets_tighten_as_they_run_out(route):
    router, now = route(ask=0.1), [0.0]
    router.hour = HourlyBudget(1.6, clock=lambda: now[0])
    budgets, spent = [], 0.0
    for _ in range(60):
        routed = router.answer(QUERY, Limits(strict=True))
        spent += routed.total_j
        if routed.answer is None:
            break
        budgets.append(routed.choices[0].budget_tokens)
        now[0] += 10.0
    assert spent <= 1.6
    assert budgets == sorted(budgets, reverse=True) and 64 == budgets[0] > budgets[1] > budgets[-1]
    now[0] += 3600.0
    assert router.hour.left_j() == 1.6
    assert router.answer(QUERY, Limits(strict=True)).choices[0].budget_tokens == 64


def test_a_queue_makes_thinking_shorter(route):
    router = route(ask=0.1, vote=0.1)
    budgets = [
        router.answer(QUERY, conditions=Conditions(queue=queue)).choices[0].budget_tokens
        for queue in range(5)
    ]
    assert budgets == sorted(budgets, reverse=True) and budgets[0] == 64 > budgets[-1]


def test_an_empty_query_is_refused(shared):
    with pytest.raises(TokenjouleError, match="empty"):
        shared.answer("  \n")
