"""Splits by question, and what is left of a file for a comparison."""

from dataclasses import replace

import numpy as np
import pytest

from bench.routing.split import folds, halves, of_arms, prepared
from engine.errors import UsageError
from engine.predict.outcomes import Table
from tests.bench.routing.planted import ARMS, outcomes


def test_every_question_is_tested_once_a_seed_by_what_others_taught():
    split = folds(range(103), 7)
    assert sorted(np.concatenate([fold.test for fold in split])) == list(range(103))
    for fold in split:
        assert not set(fold.train) & set(fold.test) and len(fold.train) + len(fold.test) == 103
    again, other = folds(range(103), 7), folds(range(103), 8)
    assert all((a.test == b.test).all() for a, b in zip(split, again, strict=True))
    assert any(
        len(a.test) != len(b.test) or (a.test != b.test).any() for a, b in zip(split, other, strict=True)
    )


def test_halves_share_no_question():
    one, other = halves(np.arange(5, 26), np.arange(26), 3)
    assert sorted([*one, *other]) == list(range(5, 26)) and abs(len(one) - len(other)) <= 1


def test_arms_without_joules_and_questions_without_an_arm_are_left_out_and_named():
    made = outcomes(120)
    dumb = [replace(one, arm="dumb", energy_j=None) for one in made if one.arm == "small"]
    holes = [one for one in made if (one.question, one.arm) not in {("q3", "peer"), ("q5", "large")}]
    found = prepared(Table.of([*holes, *dumb]))
    assert found.left_out == ("dumb",) and found.dropped == 2 and found.table.arms == tuple(ARMS)
    assert found.text_only and len(found.features) == len(found.table.questions) == 118
    assert "q3" not in found.table.questions and not np.isnan(found.table.energy_j).any()


def test_features_that_the_outcomes_bring_are_taken():
    made = [replace(one, features=(1.0, float(one.question[1:]))) for one in outcomes(110)]
    found = prepared(Table.of(made))
    assert not found.text_only and found.features.shape == (110, 2)


def test_too_little_to_compare_is_refused():
    with pytest.raises(UsageError, match="needs 2 and 100"):
        prepared(Table.of(outcomes(99)))
    with pytest.raises(UsageError, match="1 arms"):
        prepared(Table.of([one for one in outcomes(120) if one.arm == "small"]))


def test_arms_keep_their_columns():
    table = Table.of(outcomes(20))
    some = of_arms(table, [2, 0])
    assert some.arms == ("large", "small")
    assert (some.correct == table.correct[:, [2, 0]]).all() and (
        some.answers == table.answers[:, [2, 0]]
    ).all()


def test_equal_texts_lie_on_one_side_of_every_split():
    texts = np.array([f"text {q % 20}" for q in range(200)], dtype=object)
    for fold in folds(texts, 3):
        assert not set(texts[fold.train]) & set(texts[fold.test])
        assert len(set(texts[fold.test])) == 4
    one, other = halves(np.arange(40, 200), texts, 3)
    assert not set(texts[one]) & set(texts[other]) and len(set(texts[one])) == 10
    assert sorted([*one, *other]) == list(range(40, 200))
