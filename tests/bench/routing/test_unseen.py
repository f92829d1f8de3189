"""Kinds of tasks that nothing was learnt from: what the guard catches, and that they teach nothing."""

from dataclasses import replace

import numpy as np
import pytest

from bench.routing.charged import charged, with_features
from bench.routing.split import Prepared, prepared
from bench.routing.unseen import Unseen, unseen
from engine.predict.outcomes import Table
from router.policy import Array
from tests.bench.routing.planted_testbed import outcomes

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

EACH = 120  # of which every second one is learnt from
SHIFTS = {"chain": 0.0, "chain-choice": 0.0, "search": 0.0, "recall": 500.0}
STRONGEST_J = 40.0


@pytest.fixture(autouse=True, scope="module")
def less_work():
    """One estimator, of fewer folds, and fewer resamples: what takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.routing.unseen.KINDS", {"both": "both"})
        patch.setattr("bench.routing.unseen.RESAMPLES", 100)
        patch.setattr("engine.predict.performance.FOLDS", 2)
        patch.setattr("bench.routing.routed.BELOW", 0.02)  # less than one of so few questions otherwise
        yield


@pytest.fixture(scope="module")
def told(less_work) -> dict[str | None, Unseen]:
    return found(planted())


def planted() -> Prepared:
    """`EACH` of four categories. Those of `recall` lie far off, by a feature that tells nothing."""
    made, read = [], []
    for number, (category, shift) in enumerate(SHIFTS.items()):
        told, readings = outcomes(category, EACH, number, EACH)
        made += [replace(one, category=category) for one in told]
        read += [replace(one, features=(one.features[0], one.features[1] + shift)) for one in readings]
    readings = {one.question: one for one in read}
    return charged(prepared(with_features(Table.of(made), readings)), readings, 0.05)


def found(data: Prepared, said: list[str] | None = None) -> dict[str | None, Unseen]:
    rows = np.arange(len(data.table.questions))
    at = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    told = unseen(data, rows[::2], rows[1::2], lambda _: at, ([] if said is None else said).append)
    return {one.category: one for one in told}


def with_right(data: Prepared, right: Array) -> Prepared:
    return replace(data, table=replace(data.table, correct=right))


def test_questions_out_of_reach_go_to_the_best_fixed_arm_and_others_are_routed(told):
    assert list(told) == [*SHIFTS, None]
    far, near, every = told["recall"], told["search"], told[None]
    assert far.outside == 1 and far.ece is None and far.excess is None
    assert far.lost.value == 0 and far.saved.value == pytest.approx(-0.15 / STRONGEST_J, rel=0.1)  # reading
    assert near.outside < 0.1 and near.saved.value > 0.2 and near.lost.value < 10
    assert near.ece < 0.25 and abs(near.excess) < 15
    assert near.saved.low <= near.saved.value <= near.saved.high
    assert every.questions == 2 * EACH and every.outside == pytest.approx(
        np.mean([told[category].outside for category in SHIFTS])
    )
    assert every.accuracy.value == pytest.approx(np.mean([told[name].accuracy.value for name in SHIFTS]))


def test_neither_a_task_nor_the_same_one_asked_another_way_teaches_what_is_tried_on_it(told):
    data = planted()
    other = data.table.correct.copy()
    chains = np.isin(data.table.categories.astype(str), ["chain", "chain-choice"])
    other[chains & (np.arange(len(other)) % 2 == 0)] = [1, 0, 0]  # of those learnt from: the cheapest, always
    after = found(with_right(data, other))
    assert after["chain"] == told["chain"]
    assert after["chain-choice"] == told["chain-choice"]
    assert after["search"] != told["search"], "others do learn from it"


def test_estimates_that_no_longer_hold_are_seen():
    data = planted()
    wrong = data.table.correct.copy()
    wrong[data.table.categories == "search"] = 0
    search = found(with_right(data, wrong))["search"]
    assert search.accuracy.value == 0 and search.excess > 50
    assert search.ece == pytest.approx(search.excess / 100)


def test_without_kinds_of_tasks_or_with_too_few_others_that_is_said():
    data = planted()
    for same in ("chain", None):
        said: list[str] = []
        categories = np.full(len(data.table.questions), same, object)
        assert not found(replace(data, table=replace(data.table, categories=categories)), said)
        assert said == ["questions without a category, or of one kind alone: none is left out"]
    few = data.take(np.flatnonzero(np.isin(data.table.categories.astype(str), ["chain", "chain-choice"])))
    few.table.categories[:140] = "search"
    said = []
    assert list(found(few, said)) == []
    assert said == [
        "search is not left out: 50 different questions of others are too few to learn from",
        "chain is not left out: 70 different questions of others are too few to learn from",
    ]
