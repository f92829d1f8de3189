"""Stopping when the probe is sure."""

import pytest

from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import AnswerConfidence
from tests.stop.scripted import play, thinker, thought

STEPS = ["1+1=2", "2+3=5", "5+4=9", "9-9=0"]


def test_it_stops_at_the_first_checkpoint_where_the_answer_is_sure() -> None:
    script = thinker(STEPS, ["0", "2", "5", "9"], [0.5, 0.6, 0.96, 0.99])
    [result], _ = play(script, AnswerConfidence(0.95))
    assert thought(result) == "1+1=2\n2+3=5\n"
    assert (result.answer, result.stop.reason, result.stop.policy) == (
        "5",
        StopReason.POLICY,
        "AnswerConfidence",
    )
    assert (result.stop.forced_answer, result.stop.probes) == (True, 2)
    assert result.stop.probe_j == pytest.approx(result.energy.phases["probe"].energy_j)
    [used] = result.to_json()["stop"]["policies"]
    assert used["name"] == "AnswerConfidence"
    assert used["parameters"]["threshold"] == 0.95


def test_a_model_that_is_never_sure_thinks_to_its_end() -> None:
    [result], _ = play(thinker(STEPS, ["7"], [0.5]), AnswerConfidence(0.95))
    assert thought(result) == "".join(step + "\n" for step in STEPS)
    assert (result.stop.reason, result.stop.probes) == (StopReason.EOS, 4)


def test_letters_are_weighed_against_each_other() -> None:
    """A has 0.6 and "z", no letter, the rest: of what the letters have, A has nearly all."""
    script = thinker(STEPS, ["A"], [0.6])
    [free], _ = play(script, AnswerConfidence(0.95))
    [choice], _ = play(script, AnswerConfidence(0.95, choices="ABCD"))
    assert free.stop.reason is StopReason.EOS
    assert thought(choice) == "1+1=2\n"


def test_a_letter_that_is_no_single_token_is_refused() -> None:
    [result], _ = play(thinker(STEPS, ["A"]), AnswerConfidence(choices="Aé"))
    assert result.stop.reason is StopReason.ERROR
    assert result.error == "the choice 'é' is not a single token of this model"


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        AnswerConfidence(threshold)
