"""Cascades: what a state knows, which chains are tried, and what a chain at given rates spends."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.routing import cascade, escalation, routed, states, untrained
from bench.routing.cascade import best, chains, continued
from bench.routing.escalation import Worth
from bench.routing.played import Played, front
from bench.routing.split import crossed
from tests.bench.routing.planted import data
from tests.bench.routing.test_untrained import THREE, table


@pytest.mark.parametrize(
    ("answers", "stands"),
    [
        (("a", "b", "b"), 8),  # two against one
        (("a", "b", "c"), 7),  # a tie goes to the first in the order of trust
        ((None, None, "c"), 9),
        ((None, None, None), 7),
        (("", "b", ""), 7),  # an empty answer is an answer
    ],
)
def test_most_votes_stand_then_trust_and_silence_is_no_vote(answers, stands):
    assert states.standing(answers, [7, 8, 9]) == stands


@pytest.mark.parametrize(
    ("answer", "features"),
    [
        ("40", (1, 0, math.log1p(40), 1, 0)),
        ("80", (1, 0, math.log1p(80), 0, math.log1p(80) - math.log1p(40))),
        ("5/2", (1, 1, math.log1p(2.5), 0, math.log1p(2.5) - math.log1p(40))),
        ("1200", (1, 0, math.log1p(1200), 0, math.log1p(1200) - math.log1p(40))),
        ("C", (0, 0, 0, 0, 0)),
        ("1/0", (0, 0, 0, 0, 0)),
        (None, (0, 0, 0, 0, 0)),
    ],
)
def test_a_number_is_seen_beside_the_numbers_of_its_query(answer, features):
    query = "He buys 3 of 40 apples for $1.5"
    assert states.number_features(answer, query) == pytest.approx(features)


def test_a_state_knows_who_agrees_before_what_the_query_says():
    asked = table(*THREE, ("-", "-", "a"))
    found = states.state(asked, (0, 1), np.full((4, 2), 5.0), np.array([0.5, 0.4, 0.9]))
    assert list(found.features[:, 0]) == [1, 1, 0, 0]  # both silent is no agreement
    assert list(found.features[:, 2]) == [0, 0, 0, 1]
    assert (found.features[:, -2:] == 5).all() and list(found.right) == [1, 0, 1, 0]


def test_chains_ask_cheap_arms_by_their_joules_and_end_with_the_strongest():
    right = np.array([0.9, 0.7, 0.6, 0.5, 0.55, 0.85])
    joules = np.array([100.0, 20.0, 10.0, 30.0, 15.0, 120.0])
    # 4 is the cheapest below the hull, so a second opinion; 3 costs more, 5 more than the strongest.
    assert chains(right, joules) == [
        *((0,), (2, 0), (4, 0), (1, 0)),
        *((2, 4, 0), (2, 1, 0), (4, 1, 0), (2, 4, 1, 0)),
    ]


def test_of_many_arms_on_the_hull_the_cheapest_the_middle_and_the_best_are_asked():
    joules = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    right = np.array([0.2, 0.5, 0.65, 0.75, 0.8, 0.82])
    assert {arm for chain in chains(right, joules) for arm in chain} == {0, 1, 2, 4, 5}  # 1: a second opinion


def known(rng: np.random.Generator, n: int = 40) -> Worth:
    """Arms 0 and 1 and the strongest, 2."""
    draw = lambda: rng.normal(size=n)  # noqa: E731
    right = {arms: rng.integers(0, 2, n).astype(float) for arms in ((2,), (0,), (0, 1), (0, 1, 2))}
    return Worth({0: draw()}, {(0,): draw(), (0, 1): draw()}, right, rng.uniform(1, 9, (n, 3)))


def by_hand(worth: Worth, q: int, at_once: float, first: float, second: float) -> tuple[float, float]:
    joules = worth.energy_j[q]
    if worth.at_once[0][q] > at_once:
        return worth.right[(2,)][q], joules[2]
    if worth.further[(0,)][q] <= first:
        return worth.right[(0,)][q], joules[0]
    if worth.further[(0, 1)][q] <= second:
        return worth.right[(0, 1)][q], joules[0] + joules[1]
    return worth.right[(0, 1, 2)][q], joules.sum()


def test_all_combinations_of_rates_give_what_each_gives_by_hand():
    worth = known(np.random.default_rng(3))
    rates = [np.array([0.5, np.inf]), np.array([-np.inf, 0.0, np.inf]), np.array([-0.2])]
    right, spent = continued(worth, (0, 1, 2), rates)
    assert right.shape == spent.shape == (6, 40)
    row = 0
    for at_once in rates[0]:
        for first in rates[1]:
            expected = np.array([by_hand(worth, q, at_once, first, -0.2) for q in range(40)])
            assert np.stack([right[row], spent[row]], axis=1) == pytest.approx(expected)
            row += 1


def test_the_best_chain_is_what_its_rates_give():
    worth = known(np.random.default_rng(4))
    free = best(worth, [(2,), (0, 1, 2)], 0.0)
    dear = best(worth, [(2,), (0, 1, 2)], 100.0)
    assert dear.energy_j < free.energy_j and dear.right <= free.right
    for choice in (free, dear):
        right, spent = continued(worth, choice.chain, [np.array([rate]) for rate in choice.rates])
        assert (right.mean(), spent.mean()) == pytest.approx((choice.right, choice.energy_j))


def above_mix(played: Played, fixed: Played) -> float:
    """Greatest accuracy points above the fixed arms' hull."""
    hull = front(fixed.columns().mean(0))
    return max(
        100 * (right - hull.accuracy_at(joules))
        for right, joules in zip(played.accuracy(), played.joules(), strict=True)
        if joules >= hull.energy_j[0]
    )


def test_a_cascade_beats_mixing_arms_at_random_where_lengths_tell_and_not_where_its_worth_is_shuffled():
    pytest.importorskip("sklearn", reason="fitting needs scikit-learn")
    planted = data(400)
    fixed, prices = untrained.fixed_arms(planted.table), routed.prices(planted.table)[::5]
    split = crossed(planted.table.queries, 2)
    found, chosen = cascade.cascades(planted, (0,), split, lambda _: prices)
    assert above_mix(found, fixed) > 4
    assert chosen.accuracy()[0] > fixed.accuracy()[2] - 0.03
    assert not np.isnan(found.correct).any() and not np.isnan(found.energy_j).any()

    def shuffled(*arguments):
        return tuple(
            replace(
                worth,
                at_once={
                    first: np.random.default_rng(0).permutation(v) for first, v in worth.at_once.items()
                },
                further={arms: np.random.default_rng(1).permutation(v) for arms, v in worth.further.items()},
            )
            for worth in escalation.learned(*arguments)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "learned", shuffled)
        blind, _ = cascade.cascades(planted, (0,), split, lambda _: prices)
    assert above_mix(blind, fixed) < above_mix(found, fixed) - 2
