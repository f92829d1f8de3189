"""MT-Bench's file, and prompts of exactly so many tokens."""

import json
from pathlib import Path

import pytest

from bench.experiments.questions import Questions, read_questions
from engine.errors import TokenjouleError, UsageError
from engine.tokenizer import Tokenizer

BYTES = Tokenizer.bytes(300)


def test_both_turns_of_mt_bench_are_read(shared_data: Path) -> None:
    first, second = (read_questions(None, turn) for turn in (1, 2))
    assert len(first.texts) == len(second.texts) == 80
    assert first.texts[0].startswith("Compose an engaging travel blog post")
    assert second.texts[0].startswith("Rewrite your previous response.")


def test_prompts_are_spread_over_the_file() -> None:
    questions = Questions(tuple("abcdefgh"), 1, "q.jsonl")
    assert questions.prompts(BYTES, 4) == tuple(tuple(letter.encode()) for letter in "aceg")
    with pytest.raises(UsageError, match="holds 8 questions, 9"):
        questions.prompts(BYTES, 9)


def test_a_prompt_has_exactly_as_many_tokens_as_asked_for() -> None:
    questions = Questions(("ab", "c"), 1, "q.jsonl")
    assert bytes(questions.exactly(BYTES, 10)) == b"ab\ncab\ncab"
    assert bytes(questions.exactly(BYTES, 3)) == b"ab\n"


@pytest.mark.parametrize("line", ["{}", '{"turns": ["a"]}', '{"turns": ["a", ""]}', "[", "3"])
def test_a_file_without_the_turn_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"turns": ["a", "b"]}) + "\n" + line + "\n")
    with pytest.raises(TokenjouleError, match=r"line 2: .*(turn 2|JSON|object)"):
        read_questions(path, 2)


def test_without_the_data_the_option_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TOKENJOULE_DATA", raising=False)
    with pytest.raises(UsageError, match="--questions"):
        read_questions(None, 1)
    with pytest.raises(TokenjouleError, match="cannot read"):
        read_questions(tmp_path / "none.jsonl", 1)
