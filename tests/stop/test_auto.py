"""What `--stop auto` is where."""

import pytest

from engine.engine import Engine
from engine.steps import StopReason
from engine.stop.auto import auto_policy
from tests.curves import KEY
from tests.letters import CountedMeter
from tests.stop.scripted import play, thinker, thought


def test_without_a_calibration_it_is_answer_stability_and_says_so() -> None:
    [result], _ = play(thinker("abcdef", ["7"]), auto_policy(None, KEY, thinks=True))
    assert (thought(result), result.stop.policy) == ("a\nb\nc\n", "AnswerStability")
    [used] = result.to_json()["stop"]["policies"]
    assert used["description"].startswith("auto: answer stability, as no stopping rule was calibrated")
    assert used["parameters"]["k"] == 3


def test_on_a_model_that_does_not_mark_its_thinking_it_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, letters_directory: object
) -> None:
    with Engine.load(letters_directory, meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        monkeypatch.setattr(engine, "thinking", None)
        result = engine.generate([5, 6, 7], max_new_tokens=20, policies=["auto"])
    assert len(result.token_ids) == 20
    assert result.stop.reason is StopReason.MAX_TOKENS
    assert "does not mark its thinking" in result.stop.policies[0].description
