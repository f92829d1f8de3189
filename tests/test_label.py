from types import SimpleNamespace

import numpy as np
import pytest

from engine.errors import TokenjouleError, UsageError
from engine.label import Question, collect, outcomes, outcomes_of, read_questions
from engine.predict.outcomes import read_outcomes
from engine.strategy.ask import Technique
from engine.strategy.said import Said

ARMS = {"guess": ("m", Technique("direct")), "think": ("m", Technique("cot", 8))}
TAKEN = {"energy_j": 2.0, "energy_source": "measured", "prompt_tokens": 3, "new_tokens": 4, "confidence": 0.5}


class Scripted:
    """Says for each technique what it was told to."""

    def __init__(self, reads: bool = True, **said: Said) -> None:
        self.said, self.asked = said, []
        self.pool = SimpleNamespace(smallest=lambda: "m" if reads else None)

    def features(self, query: str) -> np.ndarray:
        return np.array([1.23456789, len(query)])

    def answer(self, name: str, question: str, way: Technique, *, budget_tokens: int) -> Said:
        assert budget_tokens == way.budget_tokens
        self.asked.append((question, way.technique))
        return self.said[way.technique]


def labelled(kind: str, right: str, **said: Said) -> list:
    answerers = Scripted(direct=Said(answer=" 18.0 ", **TAKEN), **said)
    [found] = outcomes(answerers, ARMS, [Question("q", "How many?", right, "sums")], kind)
    return found


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
    [found] = outcomes(answerers, ARMS, [Question("q", "?", "1")], "exact")
    assert {one.features for one in found} == {None}


def test_questions_are_read_strictly(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1+1=", "answer": "2"}\n')
    assert read_questions(tmp_path / "q.jsonl") == [Question("a", "1+1=", "2")]
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1+1="}\n')
    with pytest.raises(Exception, match="line 1: missing or unknown: answer"):
        read_questions(tmp_path / "q.jsonl")


def test_an_id_that_was_there_before_is_refused_before_anything_is_asked(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1+1=", "answer": "2"}\n' * 2)
    with pytest.raises(Exception, match="line 2: the id 'a' was there before"):
        read_questions(tmp_path / "q.jsonl")


QUESTIONS = [Question(f"q{n}", f"{n}+1=", str(n + 1)) for n in range(4)]


def collected(path, said: list[str] | None = None, digest: str = "d", **options) -> list:
    """What was asked for it."""
    answerers = Scripted(direct=Said(answer="1", **TAKEN), cot=Said(answer="2", **TAKEN))
    given = {"questions": QUESTIONS, "kind": "exact", **options}
    say = (said if said is not None else []).append
    collect(path, answerers, ARMS, given["questions"], given["kind"], digest=digest, say=say)
    return answerers.asked


def test_what_a_file_holds_is_not_asked_again(tmp_path):
    path, said = tmp_path / "o.jsonl", []
    assert len(collected(path, questions=QUESTIONS[:2])) == 4
    assert [question for question, _ in collected(path, said)] == ["2+1=", "2+1=", "3+1=", "3+1="]
    assert said == [f"2 questions to run, 2 in {path}"]
    assert collected(path) == []
    found = read_outcomes(path)
    assert [(one.question, one.arm) for one in found] == [(q.id, arm) for q in QUESTIONS for arm in ARMS]
    assert {one.setting for one in found} == {"arms d, graded exact"}


@pytest.mark.parametrize("cut", [1, 40, 500])
def test_a_line_that_a_kill_cut_is_asked_for_again_and_no_other(tmp_path, cut):
    path = tmp_path / "o.jsonl"
    collected(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    lost = 1 if cut < 300 else 2
    assert collected(path) == [("3+1=", "direct"), ("3+1=", "cot")][-lost:]
    assert path.read_bytes() == whole


def test_outcomes_of_other_arms_or_of_arms_that_have_changed_are_refused(tmp_path):
    path = tmp_path / "o.jsonl"
    collected(path)
    assert len(outcomes_of(path, ARMS, "d")) == 8
    with pytest.raises(UsageError, match="of the arms guess, think; not those at hand, guess"):
        outcomes_of(path, ["guess"], "d")
    with pytest.raises(UsageError, match="arms d, graded exact, which have changed: they are arms e now"):
        outcomes_of(path, ARMS, "e")


def test_how_far_it_has_come_is_said_while_it_runs(tmp_path, monkeypatch):
    clock, said = iter(range(0, 100, 3)), []
    monkeypatch.setattr("engine.label.monotonic", lambda: next(clock))
    collected(tmp_path / "o.jsonl", said)
    assert said[1:] == ["2 of 4 questions", "4 of 4 questions"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "e"}, "the setting was arms d, graded exact, and is arms e, graded exact now"),
        ({"kind": "number"}, "graded number now: name another file"),
        ({"questions": [Question("q0", "0+2=", "2")]}, "question 'q0' was another"),
        ({"questions": [Question("q0", "0+1=", "1", "sums")]}, "question 'q0' was another"),
    ],
)
def test_a_file_of_another_setting_or_question_is_left_as_it_is(tmp_path, changes, words):
    path = tmp_path / "o.jsonl"
    collected(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=words):
        collected(path, **changes)
    assert path.read_bytes() == before


def test_a_question_that_cannot_be_read_is_named_and_what_went_before_is_kept(tmp_path):
    class Short(Scripted):
        def features(self, query: str) -> np.ndarray:
            if query == "2+1=":
                raise TokenjouleError("too long")
            return super().features(query)

    path, answerers = tmp_path / "o.jsonl", Short(direct=Said(answer="1", **TAKEN), cot=Said(**TAKEN))
    with pytest.raises(TokenjouleError, match="question 'q2' cannot be read: too long"):
        collect(path, answerers, ARMS, QUESTIONS, "exact", digest="d", say=print)
    assert {one.question for one in read_outcomes(path)} == {"q0", "q1"}


def test_questions_too_few_or_empty_are_refused_before_they_cost_anything(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "prompt": "1+1=", "answer": "2"}}\n' for n in range(9)))
    assert len(read_questions(path)) == 9
    with pytest.raises(TokenjouleError, match="has 1 different questions; at least 9 are needed"):
        read_questions(path, least=9)
    path.write_text('{"id": "a", "prompt": "  ", "answer": "2"}\n')
    with pytest.raises(TokenjouleError, match="line 1: prompt is empty"):
        read_questions(path)
