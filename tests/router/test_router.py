"""Whole queries on the bundled model and on a server, with estimates that are planted."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.energy.hourly import HourlyBudget
from engine.errors import MeterError, TokenjouleError
from engine.predict.features import text_features
from engine.predict.performance import Performance
from engine.predict.projection import Projection
from engine.predict.request_costs import CostEstimator
from engine.predict.scorers import Logistic
from engine.prefilled import ReadError
from engine.strategy.said import Said
from router.arms import Arms, load_arms
from router.estimator import TEXT, Certificate, Estimator
from router.policy import Conditions, Limits
from router.router import Router
from tests import bad_server
from tests.bad_server import serving

QUERY = "47+35-18="
ARMS = """fallback = "think"
[models.near]
local = "bundled:chain"
backend = "torch"
[models.far]
base_url = "{url}"
served = "big"
joules_per_token = 0.5
timeout_s = 0.5
retries = 0
[[arms]]
name = "guess"
model = "near"
technique = "direct"
[[arms]]
name = "brief"
model = "near"
technique = "cot"
budget_tokens = 16
[[arms]]
name = "think"
model = "near"
technique = "cot"
budget_tokens = 64
[[arms]]
name = "vote"
model = "near"
technique = "vote"
samples = 3
temperature = 0.8
budget_tokens = 64
[[arms]]
name = "ask"
model = "far"
technique = "direct"
"""
CHANCES = {"guess": 0.3, "brief": 0.5, "think": 0.8, "vote": 0.85, "ask": 0.95}
# Far more than they take: a machine that is busy, and a first request, take several times the usual.
JOULES = {"guess": 0.2, "brief": 0.5, "think": 1.0, "vote": 3.0, "ask": 10.0}
NOWHERE = "http://127.0.0.1:9/v1"  # the discard port: nobody listens


def arms_of(tmp_path: Path, url: str = NOWHERE) -> Arms:
    path = tmp_path / "arms.toml"
    path.write_text(ARMS.format(url=url))
    return load_arms(path)


def saying(p: list[float], width: int) -> Performance:
    """These chances whatever the features."""
    projection = Projection(np.zeros(width), np.ones(width), 1e9)
    count, chances = len(p), np.array([[chance] * 2 for chance in p])
    flat = np.tile([0.0, 1.0], (count, 1))
    low, high = np.maximum(chances - 0.1, 0), np.minimum(chances + 0.05, 1)
    return Performance(projection, Logistic(np.zeros((count, width + 1))), flat, chances, low, high)


def planted(arms: Arms, *, features: str = TEXT, width: int | None = None, **chances: float) -> Estimator:
    """Says of every query what is in CHANCES and JOULES, whatever its features."""
    width = len(text_features("x")) if width is None else width
    names = tuple(arm.name for arm in arms.arms)
    count = len(names)
    performance = saying([{**CHANCES, **chances}[name] for name in names], width)
    terms = np.zeros((count, 4))
    terms[:, 0] = [JOULES[name] for name in names]
    spread, lengths = np.tile([[1.0], [1.0], [1.5]], (1, count)), np.zeros((2, count, width + 1))
    energy = CostEstimator(performance.projection, lengths, terms, np.full((count, 1000), np.nan), spread)
    return Estimator(names, arms.digest, features, "think", performance, energy)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Router]:
    """One that keeps its engine from test to test."""
    with Router(arms_of(tmp_path_factory.mktemp("arms")), energy_source="estimate") as router:
        yield router


@pytest.fixture
def route(shared, tmp_path):
    """A router of these chances over the shared engine."""

    def build(url: str = NOWHERE, estimator: Estimator | None = None, **chances: float) -> Router:
        arms = arms_of(tmp_path, url)
        router = Router(arms, estimator or planted(arms, **chances), energy_source="estimate")
        router.answerers.pool.loaded = shared.answerers.pool.loaded
        return router

    return build


def reading(shared: Router, arms: Arms, **chances: float) -> Estimator:
    """An estimator whose features the bundled model reads."""
    features = shared.answerers.features(QUERY)
    return planted(arms, features=shared.answerers.source(), width=len(features), **chances)


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
    estimator = replace(planted(arms, ask=0.1), stage=saying([0.2], 2 + 2 * len(arms.arms)))
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


def told(router: Router, **said: object) -> list[dict[str, object]]:
    """The options of every question that the router puts from now on; each is answered by `said`."""
    asked: list[dict[str, object]] = []

    def answer(name: str, question: str, way: object, **options: object) -> Said:
        asked.append({"model": name, **options})
        return Said(**{"answer": "64", "energy_j": 0.1, **said})  # type: ignore[arg-type]

    router.answerers.answer = answer  # type: ignore[method-assign]
    return asked


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
    weak = replace(estimator, stage=saying([0.2], 2 + 2 * 5))
    further = route(estimator=weak)
    told(further, confidence=0.5)
    assert any("a further arm was asked" in note for note in further.answer(QUERY, limits).notes)
    assert not any("certified" in note for note in further.answer(QUERY).notes), "nobody asked for it"
