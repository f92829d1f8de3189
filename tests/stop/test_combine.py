"""Policies made of policies."""

import pytest

from engine.errors import UsageError
from engine.steps import Step, Stop, StopReason
from engine.stop import (
    After,
    All,
    AnswerConfidence,
    AnswerStability,
    Any,
    JouleBudget,
    Policy,
    ProbeGovernor,
    StepBudget,
    TailStability,
    TokenBudget,
)
from tests.stop.scripted import play, thinker, thought

STEPS = ["a=1", "b=2", "c=2", "d=2", "e=2"]


def test_any_stops_with_the_first_for_its_reason() -> None:
    script = thinker(STEPS, ["2"])
    [result], _ = play(script, Any(TokenBudget(6), StepBudget(3)))
    assert (thought(result), result.stop.reason) == ("a=1\nb=", StopReason.TOKEN_BUDGET)
    [result], _ = play(script, Any(TokenBudget(60), StepBudget(3)))
    assert (thought(result), result.stop.reason) == ("a=1\nb=2\nc=2\n", StopReason.POLICY)
    assert result.stop.policy == "Any"
    [used] = result.stop.policies
    assert used.parameters["members"] == [
        {"name": "TokenBudget", "parameters": {"tokens": 60}},
        {"name": "StepBudget", "parameters": {"steps": 3}},
    ]


def test_all_waits_for_every_one() -> None:
    script = thinker(STEPS, ["2"])
    [result], _ = play(script, All(TailStability(2), TokenBudget(14)))
    assert thought(result) == "a=1\nb=2\nc=2\nd=", "the tails agreed at the third step, the tokens came later"


def test_all_lets_a_later_probe_take_back_what_an_earlier_one_said() -> None:
    script = thinker(STEPS, ["2"], [0.99, 0.99, 0.5, 0.5, 0.99])
    [result], _ = play(script, All(AnswerConfidence(0.9), StepBudget(3)))
    assert thought(result) == "a=1\nb=2\nc=2\nd=2\n"


def test_members_share_one_probe() -> None:
    """Confidence needs one token, stability the whole answer: one probe, read once, tells both."""
    script = thinker(STEPS, ["7", "8", "42", "42", "42"], [0.5, 0.5, 0.5, 0.99])
    policy = All(AnswerConfidence(0.9), AnswerStability(2))
    assert policy.needs == {"probe"}
    [result], _ = play(script, policy)
    assert thought(result) == "a=1\nb=2\nc=2\n"
    assert result.stop.probes == 3
    separate, _ = play(script, AnswerConfidence(0.999), AnswerStability(2))
    assert separate[0].stop.probes == 3, "and so do policies side by side"
    assert separate[0].stop.policy == "AnswerStability"


def test_after_holds_back_what_comes_early() -> None:
    script = thinker(STEPS, ["2"])
    [result], _ = play(script, After(StepBudget(1), steps=3))
    assert thought(result) == "a=1\nb=2\nc=2\n"
    [result], _ = play(script, After(AnswerConfidence(0.5), tokens=9))
    assert thought(result) == "a=1\nb=2\nc=2\n"
    assert (result.stop.probes, result.stop.policy) == (1, "AnswerConfidence")
    assert result.stop.policies[0].parameters["after_tokens"] == 9


def test_a_joule_budget_is_not_hidden_in_a_combination() -> None:
    with pytest.raises(UsageError, match="beside Any"):
        Any(JouleBudget(1.0), TokenBudget(2))
    with pytest.raises(UsageError, match="at least two"):
        All(TokenBudget(2))
    with pytest.raises(UsageError, match="either tokens or steps"):
        After(TokenBudget(2))


def test_what_bounds_thinking_still_does_in_any() -> None:
    assert Any(TokenBudget(5), TailStability(2)).bounds_thinking
    assert not All(TokenBudget(5), TailStability(2)).bounds_thinking
    assert ProbeGovernor(After(TokenBudget(5), tokens=3)).bounds_thinking


def test_a_users_policy_can_be_a_member() -> None:
    class Plain:
        needs = frozenset[str]()

        def reset(self, context: object) -> None: ...
        def on_token(self, step: Step) -> Stop | None:
            return Stop(StopReason.GIVE_UP) if step.index == 2 else None

        def on_probe(self, step: Step, reading: object) -> None: ...

    [result], _ = play(thinker(STEPS, ["2"]), Any(Plain(), Policy()))
    assert (result.text, result.stop.reason) == ("a=1", StopReason.GIVE_UP)
