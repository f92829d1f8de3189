from types import SimpleNamespace

import numpy as np
import pytest

from engine.label import Question, outcomes, read_questions
from engine.strategy.ask import Technique
from engine.strategy.said import Said

ARMS = {"guess": ("m", Technique("direct")), "think": ("m", Technique("cot", 8))}
TAKEN = {"energy_j": 2.0, "energy_source": "measured", "prompt_tokens": 3, "new_tokens": 4, "confidence": 0.5}


class Scripted:
    """Says for each technique what it was told to."""

    def __init__(self, reads: bool = True, **said: Said) -> None:
        self.said = said
        self.pool = SimpleNamespace(smallest=lambda: "m" if reads else None)

    def features(self, query: str) -> np.ndarray:
        return np.array([1.23456789, len(query)])

    def answer(self, name: str, question: str, way: Technique, *, budget_tokens: int) -> Said:
        assert budget_tokens == way.budget_tokens
        return self.said[way.technique]


def labelled(kind: str, right: str, **said: Said) -> list:
    answerers = Scripted(direct=Said(answer=" 18.0 ", **TAKEN), **said)
    return list(outcomes(answerers, ARMS, [Question("q", "How many?", right, "sums")], kind))


def test_an_answer_is_compared_as_asked():
    cot = Said(answer="19", **TAKEN)
    assert [one.correct for one in labelled("exact", "18.0", cot=cot)] == [1, 0]
    assert [one.correct for one in labelled("exact", "18", cot=cot)] == [0, 0]
    assert [one.correct for one in labelled("number", "18", cot=cot)] == [1, 0]


def test_an_arm_that_fails_is_wrong_and_took_what_it_took():
    _, failed = labelled("exact", "18", cot=Said(answer="18", error="cut off", **TAKEN))
    assert (failed.correct, failed.energy_j, failed.arm) == (0, 2.0, "think")


def test_an_arm_that_never_ran_tells_of_no_joules():
    _, refused = labelled("exact", "18", cot=Said(energy_j=0.0, error="there is no such model"))
    assert (refused.correct, refused.energy_j, refused.new_tokens) == (0, None, 0)


def test_all_that_is_known_is_in_the_outcome():
    one = labelled("exact", "18.0", cot=Said())[0]
    assert (one.question, one.query, one.category, one.arm) == ("q", "How many?", "sums", "guess")
    assert (one.prompt_tokens, one.new_tokens, one.energy_j, one.energy_source) == (3, 4, 2.0, "measured")
    assert one.features == (1.23457, 9.0) and one.confidence == 0.5


def test_without_a_local_model_there_are_no_features():
    answerers = Scripted(reads=False, direct=Said(), cot=Said())
    assert {one.features for one in outcomes(answerers, ARMS, [Question("q", "?", "1")], "exact")} == {None}


def test_questions_are_read_strictly(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1+1=", "answer": "2"}\n')
    assert read_questions(tmp_path / "q.jsonl") == [Question("a", "1+1=", "2")]
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1+1="}\n')
    with pytest.raises(Exception, match="line 1: missing or unknown: answer"):
        read_questions(tmp_path / "q.jsonl")
