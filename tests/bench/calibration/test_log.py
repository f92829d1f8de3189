import gzip
import json
from dataclasses import asdict, replace

import pytest

from bench.calibration import log
from bench.calibration.log import SCHEMA
from engine.errors import TokenjouleError, UsageError
from tests.noisy_checks import CHECKER, check_runs


def written(path, runs):
    for run in runs:
        log.append(path, [*run.checkpoints, run.end])
    return path


def test_runs_come_back_as_they_were_written(tmp_path):
    runs = check_runs(CHECKER, 5, 0)
    assert log.read([written(tmp_path / "a.jsonl", runs)]) == runs


def test_states_come_back_too_and_may_be_left_out(tmp_path):
    [run] = check_runs(CHECKER, 1, 0)
    first = replace(run.checkpoints[0], states={"3": "AACAPw=="})
    runs = [log.Trace((first, *run.checkpoints[1:]), run.end)]
    path = written(tmp_path / "a.jsonl", runs)
    assert log.read([path]) == runs
    path.write_text(path.read_text().replace(', "states": null', ""))
    assert log.read([path]) == runs


def test_what_a_policy_would_see_is_told_from_the_tails(tmp_path):
    [run] = check_runs(CHECKER, 1, 3)
    tails = [entry.tail for entry in run.checkpoints[1:]]
    assert [at.distinct for at in run.seen[1:]] == [len(set(tails[: n + 1])) for n in range(len(tails))]
    assert run.seen[0].distinct == 0


def test_a_packed_log_is_read_and_not_written(tmp_path):
    runs = check_runs(CHECKER, 3, 0)
    plain = written(tmp_path / "a.jsonl", runs)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert log.read([packed]) == runs
    with pytest.raises(UsageError, match="packed"):
        log.refuse_packed(packed)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TokenjouleError, match="cannot read"):
        log.read([packed])


def lines(tmp_path, change):
    [run] = check_runs(CHECKER, 1, 0)
    objects = [{"schema": SCHEMA, **asdict(entry)} for entry in (*run.checkpoints, run.end)]
    change(objects)
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in objects))
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: lines[2].pop("correct"), r":3: .*missing or unknown: correct"),
        (lambda lines: lines[2].update(joules=1), r":3: .*joules"),
        (lambda lines: lines[0].update(schema="x/1"), r":1: .*schema"),
        (lambda lines: lines[1].update(correct="yes"), r":2: .*correct"),
        (lambda lines: lines[1].update(states=["AACAPw=="]), r":2: .*states must be dict"),
        (lambda lines: lines[1].update(energy_j=-1.0), r":2: .*energy_j"),
        (lambda lines: lines[1].update(confidence=1.5), r":2: .*confidence"),
        (lambda lines: lines.pop(3), "count up"),
        (lambda lines: lines[5].update(energy_j=0.1), "joules fall"),
    ],
)
def test_a_log_that_is_wrong_is_refused_with_its_place(tmp_path, change, complaint):
    with pytest.raises(TokenjouleError, match=complaint):
        log.read([lines(tmp_path, change)])


def test_a_log_without_ledger_joules_is_read(tmp_path):
    path = lines(tmp_path, lambda lines: [line.pop("ledger_j") for line in lines])
    assert log.read([path])[0].end.ledger_j is None


def test_the_same_question_with_another_seed_is_another_run(tmp_path):
    [run] = check_runs(CHECKER, 1, 0)
    again = type(run)(tuple(replace(e, seed=9) for e in run.checkpoints), replace(run.end, seed=9))
    assert len(log.read([written(tmp_path / "a.jsonl", [run, again])])) == 2


@pytest.mark.parametrize("kept", [1, 4, -20])
def test_what_a_kill_cut_short_is_taken_away_before_a_log_is_continued(tmp_path, kept):
    """In the midst of the second question: after one of its lines, after four, and inside the last one."""
    first, second = check_runs(CHECKER, 2, 0)
    path = written(tmp_path / "a.jsonl", [first])
    whole = path.read_bytes()
    log.append(path, [*second.checkpoints, second.end])
    more = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + (more[:kept] if kept < 0 else b"".join(more.splitlines(True)[:kept])))
    with pytest.raises(TokenjouleError):
        log.read([path])
    log.mend(path)
    assert path.read_bytes() == whole
    log.mend(path)
    assert log.read([path]) == [first]


@pytest.mark.parametrize("foreign", [b"not JSON\n{", b'{"a": 1}\nnotes'])
def test_a_file_that_is_not_ours_is_not_mended(tmp_path, foreign):
    path = tmp_path / "notes.txt"
    path.write_bytes(foreign)
    with pytest.raises(TokenjouleError):
        log.mend(path)
    assert path.read_bytes() == foreign


def test_a_full_disk_leaves_no_part_of_a_question(tmp_path, monkeypatch):
    first, second = check_runs(CHECKER, 2, 0)
    path = written(tmp_path / "a.jsonl", [first])
    before, write = path.read_bytes(), log.os.write
    monkeypatch.setattr(log.os, "write", lambda file, data: write(file, data[:100]))
    with pytest.raises(TokenjouleError, match="No space left"):
        log.append(path, [*second.checkpoints, second.end])
    assert path.read_bytes() == before
