"""Table 1's lines, numbers and command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments import table1
from bench.experiments.bootstrap import Resampled
from bench.experiments.table1_paper import PAPER, SMALL, recomputed
from bench.experiments.table1_record import Outcome, append, new_arm, read, resume
from bench.experiments.table1_table import ALL, cell, columns, report
from engine.errors import TokenjouleError, UsageError
from tests.bench.records import STAMP


def arm(technique: str, **settings):
    return new_arm(
        technique,
        "tiny",
        shape_only=True,
        device="a chip",
        energy_source="estimate",
        measured=False,
        settings=settings,
        stamp=STAMP,
    )


def outcome(arm, number: int, correct: bool | None, energy_j: float | None = 1.0, **changes) -> Outcome:
    made = Outcome(
        arm=arm.id,
        id=f"q{number}",
        category="anatomy",
        cluster="Health",
        reference="A",
        answer=None if correct is None else "A" if correct else "B",
        correct=correct,
        unparsed=False,
        censored=correct is None,
        forced=False,
        stop="eos",
        prompt_tokens=10,
        new_tokens=1,
        energy_j=energy_j,
        elapsed_s=0.5,
        votes=None,
        error=None,
    )
    return replace(made, **changes)


def test_accuracy_leaves_censored_questions_out_and_joules_do_not():
    direct = arm("direct")
    lines = [outcome(direct, i, c, 2.0) for i, c in enumerate((True, True, False, None))]
    found, _ = columns([direct], lines)
    made = cell(found[0], None, ALL)
    assert made is not None
    assert (made.accuracy.value, made.censored, made.questions) == (pytest.approx(2 / 3), 1, 4)
    assert made.energy_j.value == 2.0
    assert made.joules_per_correct.value == 4.0  # 8 J for two right answers


def test_changes_are_paired_on_the_questions_that_both_were_asked():
    direct, cot = arm("direct"), arm("cot")
    lines = [outcome(direct, i, i < 2, 1.0) for i in range(4)]
    lines += [outcome(cot, i, True, 10.0) for i in range(3)]  # the fourth, wrong before, was not asked
    found, _ = columns([direct, cot], lines)
    made = cell(found[1], found[0], "Health")
    assert made is not None
    assert made.accuracy_change.value == pytest.approx(50.0)  # 2 of 3 before, 3 of 3 now
    assert made.energy_change.value == pytest.approx(900.0)


def test_a_censored_question_is_no_loss_in_a_change_either():
    direct, cot = arm("direct"), arm("cot")
    lines = [outcome(direct, i, i < 2) for i in range(4)]
    lines += [outcome(cot, i, c) for i, c in enumerate((True, True, True, None))]
    found, _ = columns([direct, cot], lines)
    made = cell(found[1], found[0], "Health")
    assert made is not None and made.accuracy_change.value == pytest.approx(100.0)  # 2 of 4, then 3 of 3


def test_a_question_without_joules_leaves_no_mean_of_the_others():
    direct = arm("direct")
    found, _ = columns([direct], [outcome(direct, 0, True), outcome(direct, 1, True, None)])
    made = cell(found[0], None, ALL)
    assert made is not None and made.energy_j.value is None and made.accuracy.value == 1.0
    assert "n/a" in report(found)[0]


def test_only_the_settings_measured_last_are_shown_and_the_rest_is_named():
    old, new = arm("cot", steps=3), arm("cot", steps=5)
    found, left_out = columns(
        [old, new], [outcome(old, 0, False), outcome(new, 0, True), outcome(new, 1, True)]
    )
    assert len(found) == 1 and len(found[0].outcomes) == 2
    assert left_out == ["cot: 1 lines with other settings are left out"]
    with pytest.raises(UsageError, match="no questions"):
        columns([old], [])


def test_a_question_that_could_not_be_asked_is_no_wrong_answer():
    direct = arm("direct")
    refused = outcome(direct, 1, None, None, error="too long", censored=False)
    found, _ = columns([direct], [outcome(direct, 0, True), refused])
    made = cell(found[0], None, ALL)
    assert made is not None and (made.questions, made.accuracy.value) == (1, 1.0)


def test_figures_of_random_weights_say_so(capsys):
    direct = arm("direct", chat=False)
    assert table1.show([direct], [outcome(direct, 0, True)], None, None) == 0
    shown = capsys.readouterr().out
    assert "shape only: random weights, so accuracy means nothing" in shown
    assert json.loads(shown.strip().split("\n")[-1])["shape_only"] is True


def test_intervals_hold_what_they_should():
    resampled = Resampled(400, seed=1)
    half = [float(i % 2) for i in range(400)]
    found = resampled.interval(lambda s: s[0] / 400, half)
    assert found.value == 0.5 and found.low is not None and found.high is not None
    # The binomial's own 95 % interval is ± 0.049.
    assert found.low == pytest.approx(0.451, abs=0.006) and found.high == pytest.approx(0.549, abs=0.006)
    assert Resampled(1).interval(lambda s: s[0], [3.0]).low is None
    assert resampled.interval(lambda s: s[0] / s[1], half, [0.0] * 400).value is None


def test_the_papers_printed_changes_are_those_of_its_table_but_where_its_notes_say_so():
    off = set()
    for technique, lines in PAPER.items():
        for cluster, line in lines.items():
            low = ((line.accuracy - 0.005) / (SMALL[cluster] + 0.005) - 1) * 100  # both are rounded
            high = ((line.accuracy + 0.005) / (SMALL[cluster] - 0.005) - 1) * 100
            assert low <= recomputed(cluster, technique) <= high
            if not low - 0.5 <= line.accuracy_change <= high + 0.5:
                off.add((technique, cluster))
    assert off == {("large", "Math"), ("cot", "Math"), ("large", "Economics"), ("large", "Natural Sciences")}


def test_lines_come_back_and_a_cut_last_line_is_asked_again(tmp_path):
    path, direct = tmp_path / "t.jsonl", arm("direct", chat=False)
    append(path, [direct, outcome(direct, 0, True, votes={"A": 3})])
    with path.open("a") as file:
        file.write('{"schema": "tokenjoule.table1/1", "kind": "outc')
    arms, lines = resume(path)
    assert arms == [direct] and lines == [outcome(direct, 0, True, votes={"A": 3})]
    append(path, [outcome(direct, 1, False)])
    assert [line.id for line in read([path])[1]] == ["q0", "q1"]


@pytest.mark.parametrize("line", ["{}", '{"schema": "tokenjoule.table1/1", "kind": "outcome"}', "["])
def test_a_line_of_another_kind_is_named_and_nothing_is_removed(tmp_path, line):
    path = tmp_path / "t.jsonl"
    path.write_text(line + "\nnot ours")
    with pytest.raises(TokenjouleError, match=r"t\.jsonl, line 1"):
        resume(path)
    assert path.read_text().endswith("not ours")


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """Three short questions in each of two subjects."""
    folder = tmp_path / "mmlu" / "test"
    folder.mkdir(parents=True)
    for subject in ("anatomy", "sociology"):
        rows = "".join(f"q{n},a,b,c,d,{'ABC'[n]}\n" for n in range(3))
        (folder / f"{subject}_test.csv").write_text(rows)
    return tmp_path / "mmlu"


def test_a_run_is_cut_off_goes_on_and_shows_the_same_from_its_file(tmp_path, mmlu, letters_directory, capsys):
    out, plot = tmp_path / "out.jsonl", tmp_path / "out.png"
    common = ["--model", str(letters_directory), "--mmlu", str(mmlu), "--backend", "torch", "--device", "cpu"]
    common += ["--energy-source", "estimate", "--max-new-tokens", "12", "--think-tokens", "3"]
    common += ["--techniques", "direct,vote,cot+stop", "--out", str(out)]
    assert table1.main([*common, "--limit", "1"]) == 0
    first = out.read_text().count('"kind": "outcome"')
    assert first == 2 * 3
    capsys.readouterr()
    assert table1.main([*common, "--limit", "2", "--plot", str(plot)]) == 0
    shown = capsys.readouterr()
    assert out.read_text().count('"kind": "outcome"') == 4 * 3  # the first ones are not asked again
    assert shown.err.count("direct: ") == 2
    last = json.loads(shown.out.strip().split("\n")[-1])
    assert last["measured"] is False
    assert last["techniques"]["direct"]["Health"]["questions"] == 2
    assert last["techniques"]["cot+stop"]["all"]["forced"] == 4
    assert plot.stat().st_size > 10_000
    assert "NOT MEASURED: estimate" in shown.out and "123 to 156 by the table" in shown.out
    assert table1.main(["--from", str(out)]) == 0
    again = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert again["techniques"] == last["techniques"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--techniques", "direct"], "--model"),
        (["--model", "m"], "--large-model"),
        (["--model", "m", "--techniques", "tree"], "unknown technique"),
        (["--model", "m", "--techniques", "cot+stop", "--stop", "sometimes"], "sometimes"),
        (["--model", "m", "--techniques", "direct", "--limit", "0"], "--limit must be at least 1"),
        (["--model", "m", "--techniques", "vote", "--temperature", "0"], "--temperature"),
        (["--from", "f.jsonl", "--limit", "3"], "--limit has no meaning"),
        (["--model", "m", "--techniques", "direct", "--directive", "long"], "directive"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, complaint, capsys):
    assert table1.main(arguments) == 2
    assert complaint in capsys.readouterr().err
