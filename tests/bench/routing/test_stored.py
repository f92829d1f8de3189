"""Stored outputs as outcomes: what is read of real files, and what is left out."""

import json
from pathlib import Path

import pytest

from bench.routing.stored import asked_differently, canonical, main, outcomes
from engine.predict.outcomes import Outcome, read_outcomes


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("18.0", "18"), ("18", "18"), ("1/2", "1/2"), ("0.5", "1/2"), ("C", "C"), (None, None), ("", "")],
)
def test_numbers_of_one_value_are_one_answer(answer, expected):
    assert canonical(answer) == expected


def test_gsm8k_of_the_models_that_have_joules(shared_data: Path, tmp_path, capsys):
    out = tmp_path / "gsm8k.jsonl"
    assert main(["zeroeval", "--data", str(shared_data / "data"), "--limit", "20", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert last["outcomes"] == 6 * 20 and last["asked_differently"] == []
    assert {"gpt-4o-mini-2024-07-18", "Qwen2-7B-Instruct"} < set(last["left_out"])
    assert "NOT MEASURED" in printed
    found = read_outcomes(out)
    first = next(one for one in found if one.arm == "Meta-Llama-3.1-8B-Instruct")
    assert first.query.startswith("Janet") and "JSON" not in first.query.upper()
    assert first.answer == "18" and first.correct == 1
    assert first.energy_source.startswith("table: 0.171 J/token, ML.ENERGY") and "H100" in first.energy_source
    assert first.energy_j == pytest.approx(0.171 * first.new_tokens, rel=2e-3)
    assert first.prompt_tokens > first.new_tokens / 4 > 10


def test_options_are_part_of_an_mmlu_pro_query(shared_data: Path, tmp_path):
    out = tmp_path / "mmlu-pro.jsonl"
    assert main(["mmlu-pro", "--data", str(shared_data / "data"), "--limit", "8", "--out", str(out)]) == 0
    found = read_outcomes(out)
    assert len(found) == 4 * 8 and "\nA. " in found[0].query and found[0].category


def test_questions_asked_in_different_words_are_found():
    rows = [
        Outcome(q, text, None, a, 1, "x", 1, 1, 1.0, "t")
        for q, text, a in (("q", "same", "m"), ("q", "same", "n"), ("r", "one", "m"), ("r", "other", "n"))
    ]
    assert asked_differently(rows) == {"r"}


def test_nothing_to_read_and_no_joules_are_clear_errors(shared_data: Path, tmp_path, capsys):
    out = str(tmp_path / "o.jsonl")
    data = str(shared_data / "data")
    tokenizer = ["--tokenizer", str(shared_data / "models/llama3-tokenizer")]
    assert main(["zeroeval", "--data", str(tmp_path), *tokenizer, "--out", out]) == 1
    assert "holds no zeroeval" in capsys.readouterr().err
    assert main(["zeroeval", "--data", data, "--limit", "1", "--energy-gpu", "Abacus", "--out", out]) == 1
    assert "no joules for any of" in capsys.readouterr().err
    assert main(["zeroeval", "--data", data, "--limit", "0", "--out", out]) == 2
    assert main(["zeroeval", "--data", data, "--limit", "1", "--out", str(tmp_path / "no" / "o.jsonl")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_one_outcome_for_each_trace(shared_data: Path):
    from bench.replay.tokens import TokenCounter
    from bench.replay.traces import read_traces, source_of

    file = shared_data / "data/zeroeval/gsm/gemma-2-9b-it.json.gz"
    traces = read_traces(source_of("zeroeval"), file, 5)
    counter = TokenCounter(shared_data / "models/llama3-tokenizer")
    made = outcomes(traces, counter, 2.0, "table: t")
    assert [one.question for one in made] == [trace.question for trace in traces]
    assert all(one.energy_j == 2 * one.new_tokens for one in made)
