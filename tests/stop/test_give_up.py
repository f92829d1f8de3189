"""Ending a row that gets nowhere."""

from typing import Any

import pytest

from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import GiveUp
from tests.stop.scripted import play, thinker

STEPS = ["aa", "bb", "cc", "dd"]


@pytest.mark.parametrize(("limit", "text"), [({"tokens": 4}, "aa\nb"), ({"steps": 2}, "aa\nbb\n")])
def test_it_ends_the_row_without_an_answer(limit: dict[str, int], text: str) -> None:
    [result], _ = play(thinker(STEPS, ["7"]), GiveUp(**limit))
    assert (result.text, result.answer) == (text, None)
    assert (result.stop.reason, result.stop.answer_end) == (StopReason.GIVE_UP, StopReason.GIVE_UP)
    assert not result.stop.forced_answer
    assert result.stop.probes == 0


def test_it_asks_first_where_a_probability_is_given() -> None:
    script = thinker(STEPS, ["7"], [0.5, 0.5, 0.9, 0.5, 0.5])
    [result], _ = play(script, GiveUp(tokens=4, below=0.6))
    assert result.text == "aa\nbb\ncc\n", "unsure at the first step, which came too early; sure at the second"
    assert (result.stop.reason, result.stop.probes) == (StopReason.GIVE_UP, 2)
    [result], _ = play(thinker(STEPS, ["7"], [0.9]), GiveUp(steps=1, below=0.3))
    assert (result.stop.reason, result.answer) == (StopReason.EOS, "7")


@pytest.mark.parametrize(
    "wrong",
    [{}, {"tokens": 1, "steps": 1}, {"tokens": 0}, {"steps": 2, "below": 0.0}, {"steps": 2, "below": 1.5}],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        GiveUp(**wrong)
