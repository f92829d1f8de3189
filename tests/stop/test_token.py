"""Budgets of thinking that end wherever they end."""

import pytest

from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import StepBudget, TokenBudget
from tests.stop.scripted import play, thinker, thought

STEPS = ["\xc3\xa9t\xc3\xa9=1", "two"]  # été, as the bytes that are this model's tokens


@pytest.mark.parametrize(
    ("tokens", "text"), [(2, "é"), (3, "ét"), (4, "ét\ufffd"), (1, "\ufffd"), (8, "été=1\n")]
)
def test_a_budget_that_ends_inside_a_word_or_a_character_is_answered(tokens: int, text: str) -> None:
    [result], _ = play(thinker(STEPS, ["7"]), TokenBudget(tokens))
    assert (thought(result), result.answer) == (text, "7")
    assert (result.stop.reason, result.stop.answer_end) == (StopReason.TOKEN_BUDGET, StopReason.EOS)
    assert result.stop.forced_answer
    assert result.phases_by_token.count("think") == tokens


def test_a_budget_beyond_the_thinking_changes_nothing() -> None:
    [free], _ = play(thinker(STEPS, ["7"]))
    for policy in (TokenBudget(50), StepBudget(5)):
        [result], _ = play(thinker(STEPS, ["7"]), policy)
        assert (result.token_ids, result.stop.reason) == (free.token_ids, StopReason.EOS)


def test_steps_end_where_they_are_written_out() -> None:
    [result], _ = play(thinker(STEPS, ["7"]), StepBudget(1))
    assert thought(result) == "été=1\n"
    [used] = result.stop.policies
    assert (used.name, used.parameters) == ("StepBudget", {"steps": 1})


@pytest.mark.parametrize("kind", [TokenBudget, StepBudget])
def test_a_budget_is_a_number_of_at_least_one(kind: type[TokenBudget]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        kind(0)
