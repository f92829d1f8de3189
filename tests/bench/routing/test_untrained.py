"""Rules that learn nothing, on three questions worked by hand."""

from itertools import product

import numpy as np
import pytest

from bench.calibration.hull import hull
from bench.routing import untrained
from bench.routing.played import front
from engine.predict.outcomes import Outcome, Table


def table(*rows: tuple[str, str, str], category: str = "math") -> Table:
    """Answers of cheap (1 J), peer (2 J) and large (10 J); "a" is right, "-" is silence."""
    made = [
        Outcome(
            f"q{q}", "?", category, arm, int(said == "a"), None if said == "-" else said, 5, 5, joules, "t"
        )
        for q, row in enumerate(rows)
        for arm, said, joules in zip(("cheap", "peer", "large"), row, (1.0, 2.0, 10.0), strict=True)
    ]
    return Table.of(made)


THREE = (("a", "a", "b"), ("b", "b", "a"), ("a", "b", "a"))


def test_two_that_agree_are_believed_and_paid_for():
    found = untrained.agreement(table(*THREE, ("a", "-", "a"), ("-", "-", "a")))
    assert found is not None
    pair = found.knobs.index("cheap = peer, else large")
    assert list(found.correct[0, pair]) == [1, 0, 1, 1, 1]
    assert list(found.energy_j[0, pair]) == [3, 3, 13, 13, 13]


def test_there_is_no_agreement_of_fewer_than_three_arms():
    rows = [
        Outcome("q", "?", None, arm, 1, "a", 5, 5, joules, "t") for arm, joules in (("s", 1.0), ("l", 9.0))
    ]
    assert untrained.agreement(Table.of(rows)) is None


def test_the_oracle_takes_the_cheapest_that_is_right_and_else_the_cheapest():
    found = untrained.oracle(table(*THREE, ("b", "b", "b")))
    assert list(found.correct[0, 0]) == [1, 1, 1, 0]
    assert list(found.energy_j[0, 0]) == [1, 10, 1, 1]


@pytest.mark.parametrize("rows", [(*THREE, ("b", "a", "b"), ("b", "b", "b")), (("a", "a", "a"),) * 2])
def test_no_choice_of_an_arm_for_each_question_beats_the_thrifty_oracle(rows):
    outcomes = table(*rows)
    questions, every = np.arange(len(rows)), np.array(list(product(range(3), repeat=len(rows))))
    right, joules = (values[questions, every].mean(1) for values in (outcomes.correct, outcomes.energy_j))
    found, best = front(untrained.thrifty(outcomes).columns().mean(0)), hull(joules, right)
    assert list(found.energy_j) == pytest.approx(list(best.energy_j))
    assert list(found.accuracy) == pytest.approx(list(best.accuracy))


@pytest.mark.parametrize(
    ("category", "joules"), [("math", 10.0), ("history", 1.0), ("grade school", 10.0), ("health", 10.0)]
)
def test_the_paper_s_rules_go_by_category_and_fall_back_on_the_strongest(category, joules):
    found = untrained.paper(table(*THREE, ("b", "b", "a"), category=category))
    assert np.all(found.energy_j == joules)


def test_fixed_arms_are_what_they_gave():
    found = untrained.fixed_arms(table(*THREE))
    assert found.knobs == ("cheap", "peer", "large")
    assert list(found.accuracy()) == pytest.approx([2 / 3, 1 / 3, 2 / 3])
    assert list(found.joules()) == [1, 2, 10]
