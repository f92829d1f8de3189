"""Stopping when answers, or what the steps end in, stay the same."""

import pytest

from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import AnswerStability, TailStability
from engine.stop.stability import Streak, exactly, tail
from tests.stop.scripted import play, thinker, thought

STEPS = ["a", "b", "c", "d", "e", "f"]


def test_it_stops_after_k_equal_answers_in_a_row() -> None:
    script = thinker(STEPS, ["1", "5", "7", "7", "42", "42", "42"])
    [result], _ = play(script, AnswerStability(3))
    assert thought(result) == "a\nb\nc\nd\ne\nf\n"
    [result], _ = play(script, AnswerStability(2))
    assert thought(result) == "a\nb\nc\n"
    assert (result.answer, result.stop.probes) == ("7", 3)


def test_a_grader_decides_what_is_equal() -> None:
    script = thinker(STEPS, ["x", "0.5", "1/2", "7"])
    [result], _ = play(script, AnswerStability(2, same=lambda one, other: {one, other} == {"0.5", "1/2"}))
    assert thought(result) == "a\nb\n"


def test_an_answer_that_was_cut_short_is_no_answer() -> None:
    """Long answers begin alike: their first four tokens are no sign of anything."""
    script = thinker(STEPS, ["the answer is 1", "the answer is 2"])
    [result], _ = play(script, AnswerStability(2, answer_tokens=4), answer_tokens=40)
    assert result.stop.reason is StopReason.EOS
    [result], _ = play(script, AnswerStability(2, answer_tokens=20), answer_tokens=40)
    assert thought(result) == "a\nb\n"


def test_another_question_and_where_its_answer_ends() -> None:
    script = thinker(STEPS, ["7]junk"])
    [result], _ = play(script, AnswerStability(2, answer_tokens=3, text="}{", ends="]"))
    assert thought(result) == "a\nb\n"


def test_every_n_tokens_in_place_of_step_ends() -> None:
    [result], _ = play(thinker(["long thought"], ["7"]), AnswerStability(2, every=3))
    assert thought(result) == "long t"


@pytest.mark.parametrize(
    ("step", "end"),
    [("47+35=82", "82"), ("a = b = c d ", "c d"), ("so it is 7", "7"), ("7", "7"), ("", ""), ("x=", "")],
)
def test_the_tail_is_behind_the_last_equals_sign_or_the_last_word(step: str, end: str) -> None:
    assert tail(step) == end


def test_tails_cost_no_probe() -> None:
    [result], _ = play(thinker(["1=1", "x=7", "y=7", "so 7", "8"], ["9"]), TailStability(3))
    assert thought(result) == "1=1\nx=7\ny=7\nso 7\n"
    assert result.stop.probes == 0
    assert "probe" not in result.energy.phases
    [result], _ = play(thinker(["1=1", "x=", "x=", "x="], ["9"]), TailStability(2))
    assert result.stop.reason is StopReason.EOS, "nothing is no answer"


def test_the_streak_begins_again_with_every_row() -> None:
    streak = Streak(exactly)
    assert [streak.add(text) for text in ("7", " 7", "8", "", "", "8", "8")] == [1, 2, 1, 0, 0, 1, 2]
    results, _ = play(thinker(STEPS, ["7"]), AnswerStability(3), rows=2)
    assert [thought(result) for result in results] == ["a\nb\nc\n"] * 2


@pytest.mark.parametrize("kind", [AnswerStability, TailStability])
def test_one_answer_is_no_streak(kind: type[AnswerStability]) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        kind(1)
