"""Stored outputs: what is read of them, token budgets, votes, joules, and the command."""

import json
from pathlib import Path

import pytest

from bench.experiments import replay
from bench.replay import budgets, votes
from bench.replay.budgets import Counted
from bench.replay.joules import Served, served
from bench.replay.tokens import TokenCounter
from bench.replay.traces import SOURCES, Trace, read_traces, source_of
from bench.replay.votes import Rule
from engine.errors import TokenjouleError, UsageError

TABLE = "data/energy_ml_energy_v2/llm_text_generation.jsonl"


def trace(number: int, correct: bool, *, tokens: int, sample: int = 0, key: str | None = "a") -> Counted:
    made = Trace("s", "m", f"q{number}", "c", sample, "q", "p", "t", key, key, correct)
    return Counted(made, 10, tokens)


def test_right_at_a_budget_only_if_finished_within_it():
    texts = [trace(0, True, tokens=10), trace(1, True, tokens=100), trace(2, False, tokens=20)]
    texts.append(trace(3, False, tokens=30, key=None))
    points = {point.budget: point for point in budgets.curve(texts, Served(0.5, "x"), (10, 20, 50))}
    assert list(points) == [10, 20, 50, None]
    assert [points[b].right.value for b in points] == [0.25, 0.25, 0.25, 0.5]
    assert [points[b].finished for b in points] == [0.25, 0.5, 0.75, 1.0]
    assert points[20].finished_right == 0.5
    assert points[50].unanswered == 0.25 and points[20].unanswered == 0.0
    assert points[20].tokens == (10 + 20 + 20 + 20) / 4
    assert points[20].energy_j.value == pytest.approx(0.5 * 70 / 4)


def test_accuracy_never_falls_with_the_budget_and_ends_at_the_stored_one(shared_data: Path):
    source = source_of("zeroeval")
    file = shared_data / "data/zeroeval/gsm/Meta-Llama-3.1-8B-Instruct.json.gz"
    traces = read_traces(source, file, 60)
    counts = TokenCounter(shared_data / "models/llama3-tokenizer").counts([one.text for one in traces])
    counted = [Counted(one, 1, tokens) for one, tokens in zip(traces, counts, strict=True)]
    right = [point.right.value or 0.0 for point in budgets.curve(counted, None)]
    assert right == sorted(right)
    assert right[-1] == sum(one.correct for one in traces) / 60
    assert right[0] == 0


@pytest.mark.parametrize(
    ("keys", "rule", "taken"),
    [
        ("aaaa", Rule("fixed", 3, 4), 3),
        ("aaaa", Rule("fixed", 9, 4), 4),
        ("aaaaaa", Rule("adaptive", 0.8, 6), 2),  # P(p > 1/2) behind 2 of 2 is 7/8
        ("abaaaa", Rule("adaptive", 0.8, 6), 4),
        ("ababab", Rule("adaptive", 0.8, 6), 6),
        ("ababbb", Rule("window", 2, 6), 6),
        ("abaaab", Rule("window", 2, 6), 4),
        ([None, None, "a", "a"], Rule("adaptive", 0.8, 4), 4),
        ([None, None, "a", "a"], Rule("window", 2, 4), 4),
    ],
)
def test_a_vote_stops_where_its_rule_says(keys, rule, taken):
    assert rule.taken(list(keys)) == taken


def test_votes_over_all_orders_are_exact_where_the_order_does_not_matter():
    easy = {"q0": [trace(0, True, tokens=5, sample=s) for s in range(4)]}
    split = {"q1": [trace(1, s < 2, tokens=5, sample=s, key="a" if s < 2 else str(s)) for s in range(4)]}
    point = votes.replay(easy | split, Rule("fixed", 4, 4), Served(1.0, "x"))
    assert point.right.value == 1.0  # two of four agree, the others are alone
    assert (point.samples, point.tokens, point.energy_j.value) == (4.0, 20.0, 20.0)
    one = votes.replay(easy | split, Rule("fixed", 1, 4), None, orders=400)
    assert one.right.value == pytest.approx(0.75, abs=0.03) and one.energy_j.value is None


def test_a_vote_among_samples_without_answers_is_undecided_and_not_right():
    nothing = {"q": [trace(0, False, tokens=5, sample=s, key=None) for s in range(2)]}
    point = votes.replay(nothing, Rule("fixed", 2, 2), None)
    assert (point.right.value, point.undecided) == (0.0, 1.0)


def test_eight_stored_samples_vote_as_their_authors_found(shared_data: Path):
    traces = read_traces(source_of("maj8"), next((shared_data / "data/qwen25math_maj8").glob("*.jsonl")))
    counted = [Counted(one, 1, 1) for one in traces]
    questions = votes.by_question(counted)
    assert (len(traces), len(questions)) == (800, 100)
    single = votes.replay(questions, Rule("fixed", 1, 8), None, orders=20)
    voted = votes.replay(questions, Rule("fixed", 8, 8), None, orders=5)
    assert single.right.value == pytest.approx(0.91, abs=0.02)
    assert voted.right.value == pytest.approx(0.93, abs=0.01)
    fewer = votes.replay(questions, Rule("adaptive", 0.95, 8), None, orders=5)
    assert fewer.samples < 5 and fewer.right.value == pytest.approx(voted.right.value, abs=0.01)


@pytest.mark.parametrize(
    ("source", "file", "questions", "right"),
    [
        ("zeroeval", "zeroeval/gsm/gemma-2-9b-it.json.gz", 1319, 0.8734),
        ("game24", "tot_game24/gpt-4_0.7_naive_cot_sample_100_start900_end1000.json", 100, 0.0403),
    ],
)
def test_stored_accuracies_come_out(shared_data: Path, source, file, questions, right):
    traces = read_traces(source_of(source), shared_data / "data" / file)
    assert len({one.question for one in traces}) == questions
    assert sum(one.correct for one in traces) / len(traces) == pytest.approx(right, abs=0.001)


def test_tokens_are_those_of_the_tokenizer_and_are_counted_once(shared_data: Path, monkeypatch):
    directory = shared_data / "models/llama3-tokenizer"
    texts = ["This is a test sentence.", "", "18\n"]
    assert TokenCounter(directory).counts(texts) == [6, 0, 2]
    monkeypatch.setattr(TokenCounter, "_count", lambda self, texts: pytest.fail("counted again"))
    assert TokenCounter(directory).counts(texts) == [6, 0, 2]
    with pytest.raises(TokenjouleError, match=r"tokenizer\.json"):
        TokenCounter(directory / "none")


def test_joules_are_the_tables_and_say_so(shared_data: Path, tmp_path):
    small = served(shared_data / TABLE, "Meta-Llama-3.1-8B-Instruct")
    large = served(shared_data / TABLE, "Meta-Llama-3.1-70B-Instruct")
    assert small is not None and large is not None
    assert small.per_token_j == pytest.approx(0.171, abs=0.001)
    assert large.per_token_j == pytest.approx(1.313, abs=0.001)
    assert "not measured here" in small.note and "H100" in small.note and "batch 6" in small.note
    assert served(shared_data / TABLE, "gpt-4o-mini-2024-07-18") is None
    nearly = served(shared_data / TABLE, "gemma-2-27b-it")  # its runs were limited to 63 requests
    assert nearly is not None and "batch 63" in nearly.note
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(TokenjouleError, match="no table"):
        served(tmp_path / "t.jsonl", "x")


@pytest.mark.parametrize("text", ["", "[]", "{", '[{"question_id": 1}]', '{"a": 1}'])
def test_a_broken_file_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    for source in SOURCES.values():
        with pytest.raises(TokenjouleError, match=r"x\.json"):
            read_traces(source, path)


def test_the_command_writes_lines_from_which_the_same_comes_again(shared_data: Path, tmp_path, capsys):
    out, plot = tmp_path / "r.jsonl", tmp_path / "r.png"
    run = [
        "--traces",
        "zeroeval,maj8",
        "--limit",
        "20",
        "--orders",
        "3",
        "--out",
        str(out),
        "--plot",
        str(plot),
    ]
    assert replay.main(run) == 0
    first = capsys.readouterr().out
    assert "joules NOT MEASURED here" in first and "0.171 J/token" in first and "no joules" in first
    assert plot.stat().st_size > 10_000
    assert replay.main(["--from", str(out)]) == 0
    again = capsys.readouterr().out
    assert again.split("\n")[:-2] == first.split("\n")[:-2]
    assert json.loads(first.strip().split("\n")[-1])["measured"] is False


def test_bad_usage_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    assert replay.main(["--traces", "mmlu"]) == 2
    assert "unknown traces" in capsys.readouterr().err
    assert replay.main(["--from", "x.jsonl", "--limit", "3"]) == 2
    assert replay.main(["--limit", "0"]) == 2
    monkeypatch.delenv("TOKENJOULE_DATA", raising=False)
    capsys.readouterr()
    assert replay.main([]) == 2
    assert "--data" in capsys.readouterr().err
    assert replay.main(["--data", str(tmp_path / "none")]) == 2
    assert "none is no directory" in capsys.readouterr().err
    (tmp_path / "r.jsonl").write_text('{"schema": "other"}\n')
    assert replay.main(["--from", str(tmp_path / "r.jsonl")]) == 1
    assert "line 1" in capsys.readouterr().err


def test_an_unknown_source_is_refused():
    with pytest.raises(UsageError, match="there are mmlu-pro"):
        source_of("x")
