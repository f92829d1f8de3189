"""The test bed's arms on the bundled model: what is told twice is the same, and joules are those that ran."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.calibration.priced import Pricer
from bench.routing import testbed
from bench.routing.asked import Asked, Told, read_question, run, tell
from bench.routing.reading import append, beside, curve_digest, read_readings
from bench.routing.ways import Way, arm_name, parsed, ways
from bench.testbed.splits import open_split
from engine.energy.curve_predict import forward_features
from engine.energy.curve_store import save_curve
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.predict.outcomes import read_outcomes
from kernels.cost import RowWork
from tests.curves import curve

MODEL = "bundled:testbed-s"


@pytest.fixture(scope="module")
def asked() -> Asked:
    with Engine.load(MODEL, energy_source="estimate") as engine:
        yield Asked("testbed-s", engine, Pricer(replace(curve(), fits=engine.curve_key)))


@pytest.fixture(scope="module")
def frozen(asked, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("curve") / "S.json"
    save_curve(asked.pricer.curve, path)
    return path


def test_an_arm_s_name_tells_its_way():
    for way in ways((16, 32), (32,), 3):
        assert parsed(arm_name("some/model", way)) == ("some/model", way)
    assert [way.name for way in ways((32, 16), (32, 16), 3)] == [
        *("direct", "cot-16", "cot-32"),
        *("vote-3-16", "vote-3-32"),
    ]
    assert Way(16).family == Way(32).family != Way(32, 3).family
    with pytest.raises(UsageError, match="is no arm"):
        parsed("large")
    for wrong in ((), (16, 16)):
        with pytest.raises(UsageError, match="token budgets"):
            ways(wrong, (16,), 3)
        with pytest.raises(UsageError, match="token budgets"):
            ways((16,), wrong, 3)
    with pytest.raises(UsageError, match="2 samples"):
        ways((16,), (16,), 1)


def test_what_a_larger_budget_tells_of_a_smaller_one_is_what_running_it_tells(asked):
    told_again = 0
    for question in open_split("development", per_category=1, categories=("chain", "verify", "recall")):
        found = dict(zip(("64", "128"), tell(asked, question, (Way(64), Way(128))), strict=True))
        for budget, told in found.items():
            alone = run(asked, question, Way(int(budget)))
            assert facts(told) == facts(alone)
        told_again += found["64"].outcome.elapsed_s == found["128"].outcome.elapsed_s
        assert found["64"].thought <= 64
    assert told_again  # a chain is done within 64 tokens; were all run, nothing would be shown here


def facts(told: Told) -> tuple[object, ...]:
    """All but what a clock or a meter says."""
    return told.thought, replace(told.outcome, elapsed_s=None)


def test_joules_are_those_of_the_forwards_that_ran_with_the_rows_of_a_vote_together(asked):
    [question] = open_split("development", per_category=1, categories=("chain",))
    one = run(asked, question, Way(5)).outcome
    work = asked.pricer
    prompt = one.prompt_tokens
    # Five tokens of thought, closer and prefix fed with the last of them, then the answer's own.
    by_hand = work.written_j(prompt, 5) + work.answer_j(prompt + 5, 2, one.new_tokens - 7)
    assert one.energy_j == pytest.approx(by_hand)
    vote = run(asked, question, Way(5, 2)).outcome
    assert one.energy_j < vote.energy_j < 1.5 * one.energy_j  # a step weighs its two rows lightly
    both = work.curve.energy.expected(forward_features([RowWork(1, 30)] * 2))
    assert both < 2 * work.curve.energy.expected(forward_features([RowWork(1, 30)]))
    assert vote.new_tokens > one.new_tokens and vote.confidence in (0.5, 1.0)


def test_a_reading_tells_features_and_what_an_arm_of_the_reader_is_spared(asked):
    [question] = open_split("development", per_category=1, categories=("search",))
    found = read_question(asked, question, "development")
    base, prompt = asked.pricer.curve.energy.coefficients[:2]
    assert found.energy_j == pytest.approx(found.saved_j + base + prompt)
    assert len(found.features) == 16 + 4 * 128 and found.ledger_j["reading"] > 0


def test_outcomes_are_written_once_and_a_line_that_was_cut_is_run_again(asked, frozen, tmp_path, capsys):
    out = tmp_path / "outcomes.jsonl"
    command = ["--model", MODEL, "--curve", str(frozen), "--energy-source", "estimate", "--out", str(out)]
    command += [
        "--questions",
        "1",
        "--tasks",
        "testbed:chain,recall-choice",
        "--budgets",
        "8,16",
        "--vote-budgets",
        "16",
    ]
    assert testbed.main(command) == 0
    whole = read_outcomes(out)
    arms = ["direct", "cot-8", "cot-16", "vote-5-16"]
    assert [one.arm for one in whole] == [f"testbed-s/{arm}" for arm in arms] * 2
    readings = read_readings([beside(out)])
    assert set(readings) == {one.question for one in whole}
    assert all(set(one.ledger_j) == {"reading", *(o.arm for o in whole)} for one in readings.values())
    assert testbed.main(command) == 0
    assert "0 questions to run" in capsys.readouterr().err and read_outcomes(out) == whole

    digest = curve_digest(asked.pricer.curve)
    assert {tuple(one.curves.items()) for one in readings.values()} == {(("testbed-s", digest),)}
    other = tmp_path / "other.json"
    dearer = replace(asked.pricer.curve.energy, floor=1.0)
    save_curve(replace(asked.pricer.curve, energy=dearer), other)
    again = [str(other) if part == str(frozen) else part for part in command]
    assert testbed.main(again) == 2
    assert f"by the curve {digest}, not by" in capsys.readouterr().err

    out.write_bytes(out.read_bytes()[:-40])
    assert testbed.main(command) == 0
    again = read_outcomes(out)
    assert [replace(one, elapsed_s=None) for one in again] == [replace(o, elapsed_s=None) for o in whole]


def test_what_cannot_be_asked_is_refused(frozen, tmp_path, capsys):
    command = ["--model", MODEL, "--out", str(tmp_path / "o.jsonl")]
    for more, words in (
        (["--curve", str(frozen), "--curve", str(frozen)], "1 models and 2 curves"),
        (["--split", "test", "--reason", "try"], "frozen curves only"),
        (["--split", "test", "--curve", str(frozen)], "a reason"),
        (["--split", "test", "--reason", "try", "--curve", str(frozen)], "was not frozen"),
        (["--tasks", "testbed:poetry"], "tasks are"),
        (["--questions", "0"], "not 0"),
    ):
        assert testbed.main([*command, *more]) == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_reading_that_is_none_is_named_by_file_and_line(asked, tmp_path):
    [question] = open_split("development", per_category=1, categories=("recall",))
    path = tmp_path / "x.readings.jsonl"
    append(path, read_question(asked, question, "development"))
    path.write_text(path.read_text() + '{"schema": "other"}\n')
    with pytest.raises(TokenjouleError, match=r"jsonl:2: not a line of"):
        read_readings([path])


def test_a_curve_is_the_same_whatever_is_fitted_to_it_later():
    known = replace(curve(), accuracy={"version": 1})
    assert curve_digest(known) == curve_digest(curve()) and len(curve_digest(known)) == 12
    assert curve_digest(replace(curve(), measured=True)) != curve_digest(curve())


def test_one_more_way_runs_that_way_alone(asked, tmp_path):
    [question], out = open_split("development", per_category=1, categories=("chain",)), tmp_path / "o.jsonl"
    testbed.collect([asked], (Way(), Way(8)), [question], "development", out)
    before = out.read_text()
    testbed.collect([asked], (Way(), Way(8), Way(8, 2)), [question], "development", out)
    assert out.read_text().startswith(before)
    arms = [one.arm for one in read_outcomes(out)]
    assert arms == ["testbed-s/direct", "testbed-s/cot-8", "testbed-s/vote-2-8"]
    [told] = read_readings([beside(out)]).values()
    assert set(told.ledger_j) == {"reading", *arms}
