"""Counting votes, and the rules that end sampling, against brute force."""

import itertools
import random

import pytest

from engine.strategy.ballot import (
    POINTS,
    adaptive_stop,
    confidence,
    expected_gain,
    is_decided,
    is_unanimous,
    majority,
    pays,
)


def test_the_most_frequent_answer_wins_and_none_abstains() -> None:
    ballot = majority(["7", None, "3", "3", None], [-0.1, -0.1, -0.9, -0.5, None])
    assert (ballot.answer, ballot.winner) == ("3", 3), "the likelier of the two that say 3"
    assert dict(ballot.votes) == {"3": 2, "7": 1}
    assert ballot.tied == ()


def test_a_tie_goes_to_the_likeliest_sample_and_then_to_the_first() -> None:
    ballot = majority(["a", "b", "b", "a"], [-2.0, -1.0, -3.0, -1.5])
    assert (ballot.answer, ballot.winner, ballot.tied) == ("b", 1, ("a", "b"))
    assert majority(["a", "b"], [-1.0, -1.0]).winner == 0
    assert majority(["a", "b"], [None, -9.0]).answer == "b", "what is not known comes last"
    assert majority(["b", "a"], [None, None]).answer == "b"


def test_without_an_answer_nobody_wins() -> None:
    for answers in ([], [None, None]):
        ballot = majority(answers, [None] * len(answers))
        assert (ballot.answer, ballot.winner, dict(ballot.votes)) == (None, None, {})


def test_decided_means_that_no_continuation_changes_or_ties_the_majority() -> None:
    for first, second, left in itertools.product(range(5), range(5), range(4)):
        counts = {"a": max(first, second), "b": min(first, second)}

        def leads(rest: tuple[str, ...], counts: dict[str, int] = counts) -> bool:
            total = {answer: counts.get(answer, 0) + rest.count(answer) for answer in "abc"}
            return total["a"] > max(total["b"], total["c"])

        always = all(leads(rest) for rest in itertools.product("abc", repeat=left))
        assert is_decided(list(counts.values()), left) == always


def test_confidence_is_the_beta_posterior_by_simulation() -> None:
    rng = random.Random(1)
    for first, second in ((0, 0), (1, 0), (3, 1), (6, 5)):
        draws = 20_000
        above = sum(rng.betavariate(first + 1, second + 1) > 0.5 for _ in range(draws)) / draws
        assert confidence([second, first]) == pytest.approx(above, abs=0.015)


def test_adaptive_self_consistency_stops_after_four_that_agree() -> None:
    """1 - 2^-(n + 1) passes 0.95 at n = 4; with one against them six are needed."""
    assert [adaptive_stop([n]) for n in (3, 4)] == [False, True]
    assert [adaptive_stop([n, 1]) for n in (5, 6)] == [False, True]
    assert not adaptive_stop([])


def test_a_gain_is_what_simulated_votes_add() -> None:
    rng = random.Random(2)
    for first, second, more in ((1, 1, 4), (2, 1, 3), (4, 0, 8)):
        gained, draws = 0.0, 20_000
        for _ in range(draws):
            chance = rng.betavariate(first + 1, second + 1)
            ahead = sum(rng.random() < chance for _ in range(more))
            after = confidence([first + ahead, second + more - ahead])
            gained += after - confidence([first, second])
        assert expected_gain([first, second], more) == pytest.approx(gained / draws, abs=0.01)


def test_a_vote_that_cannot_change_the_leader_gains_nothing() -> None:
    assert expected_gain([3, 1], 1) == pytest.approx(0, abs=1e-12)
    assert expected_gain([3, 1], 8) > 0.01
    assert expected_gain([2, 2], 1) > 0.1


def test_a_dear_sample_does_not_pay_and_a_free_one_does() -> None:
    assert pays([1, 1], 4, sample_j=1.0, price=0.0)
    assert not pays([1, 1], 4, sample_j=1.0, price=POINTS)
    assert not pays([9], 0, sample_j=1.0, price=0.0), "nothing is left to draw"
    gain = max(POINTS * expected_gain([2, 1], more) / more for more in range(1, 6))
    assert pays([2, 1], 5, sample_j=2.0, price=gain / 2 * 0.99)
    assert not pays([2, 1], 5, sample_j=2.0, price=gain / 2 * 1.01)


def test_a_window_is_unanimous_only_if_all_of_it_answered() -> None:
    assert is_unanimous(["4", "4", "4"])
    assert not is_unanimous(["4", "4", None])
    assert not is_unanimous([None, None])
    assert not is_unanimous(["4"])


def test_negative_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0"):
        confidence([2, -1])
