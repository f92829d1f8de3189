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
