import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import calibrate
from bench.calibration import log, tasks
from bench.calibration.fit import fit_rule
from bench.calibration.priced import Pricer
from bench.calibration.replay import replay_all
from bench.calibration.run import ask, entries_of
from bench.experiments import stop
from engine.energy.curve_store import load_curve, save_curve
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.stop import MarginalValue, TokenBudget
from tests.chains import spelled
from tests.curves import curve
from tests.noisy_checks import CHECKER, check_runs

RUNS = 22


@pytest.fixture(scope="module", autouse=True)
def _chains_that_the_bundled_model_knows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "open_split", spelled)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the bundled model's curve, the log of some of its chains, and the rule fitted to them."""
    folder = tmp_path_factory.mktemp("calibrated")
    with Engine.load(backend="torch", energy_source="estimate") as engine:
        save_curve(replace(curve(), fits=engine.curve_key), folder / "curve.json")
    assert run(folder) == 0
    return folder


def run(folder: Path, *more: str) -> int:
    return calibrate.main(
        [
            *("--backend", "torch", "--energy-source", "estimate", "--tasks", "testbed:chain"),
            *(
                "--questions",
                str(RUNS),
                "--out",
                str(folder / "log.jsonl"),
                "--curve",
                str(folder / "curve.json"),
            ),
            *more,
        ]
    )


def test_a_calibration_logs_every_checkpoint_and_keeps_the_rule(made):
    traces = log.read([made / "log.jsonl"])
    assert len(traces) == RUNS
    for trace in traces:
        assert [entry.checkpoint for entry in trace.checkpoints] == list(range(len(trace.checkpoints)))
        assert trace.end.closed and trace.end.ledger_j > 0
        assert all(entry.probe_j > 0 and entry.answer_j > 0 for entry in trace.checkpoints)
    assert sum(trace.end.correct for trace in traces) > RUNS / 2  # the model knows what it was asked
    rule = load_curve(made / "curve.json").stopping
    assert rule.runs == RUNS and set(rule.categories) == {"chain", "all"}


def test_what_a_log_holds_is_not_run_again(made, capsys):
    before = (made / "log.jsonl").read_bytes()
    assert run(made) == 0
    out = capsys.readouterr()
    assert "0 questions to run" in out.err
    assert (made / "log.jsonl").read_bytes() == before
    result = json.loads(out.out.splitlines()[-1])
    assert result["schema"] == calibrate.SCHEMA and result["runs"] == RUNS


def test_fitting_from_the_log_gives_the_same_rule_and_draws_it(made, tmp_path):
    before = load_curve(made / "curve.json").stopping
    arguments = ["--from", str(made / "log.jsonl"), "--curve", str(made / "curve.json")]
    assert calibrate.main([*arguments, "--plot", str(tmp_path / "found.png")]) == 0
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    after = load_curve(made / "curve.json").stopping
    assert replace(after, date=before.date) == before


def test_logged_joules_are_those_of_the_forwards_that_run(made):
    [question] = spelled("development", per_category=1, categories=("chain",))
    with Engine.load(backend="torch", energy_source="estimate") as engine:
        pricer = Pricer(load_curve(made / "curve.json"))
        entries = entries_of(engine, pricer, question, "development")
        end = entries[-1]
        session, result = ask(engine, question, [])
        assert sum(pricer.executed_j(session.ledger.marks, 0).values()) == pytest.approx(
            end.energy_j + end.answer_j, rel=1e-12
        )
        assert result.answer == end.answer
        for entry in entries[:-1]:  # stopped there, it answers so, and costs so much
            session, result = ask(engine, question, [TokenBudget(entry.think_tokens)])
            assert result.answer == entry.answer
            assert sum(pricer.executed_j(session.ledger.marks, 0).values()) == pytest.approx(
                entry.energy_j + entry.answer_j, rel=1e-12
            )


def test_the_policy_stops_where_the_replay_says(made):
    kept = load_curve(made / "curve.json")
    traces = log.read([made / "log.jsonl"])[:6]
    pricer = Pricer(kept)
    questions = {
        (q.category, q.seed): q for q in spelled("calibration", per_category=6, categories=("chain",))
    }
    with Engine.load(backend="torch", energy_source="estimate") as engine:
        for price in (0.0, 0.5, 20.0):
            replayed = replay_all(traces, kept.stopping, price)
            for trace, joules, correct in zip(traces, replayed.energy_j, replayed.correct, strict=True):
                question = questions[trace.end.category, trace.end.seed]
                session, result = ask(engine, question, [MarginalValue(price, rule=kept.stopping)])
                assert sum(pricer.executed_j(session.ledger.marks, 0).values()) == pytest.approx(joules)
                assert (result.answer == question.answer) == correct
                assert "category 'chain'" in result.stop.policies[0].description


def test_the_arena_plays_compares_and_tells_again_from_its_files(made, tmp_path, capsys):
    user = tmp_path / "mine.py"
    user.write_text(
        "from engine.stop import Policy\nfrom engine.steps import Stop\n"
        "class Mine(Policy):\n    def on_token(self, step):\n"
        "        return Stop() if step.index == 4 else None\n"
    )
    files = ["--log", str(made / "arena-log.jsonl"), "--curve", str(made / "curve.json")]
    played = made / "runs.jsonl"
    arguments = [
        *(
            "--backend",
            "torch",
            "--energy-source",
            "estimate",
            "--tasks",
            "testbed:chain",
            "--questions",
            "6",
        ),
        *("--only", "direct", "--only", "tail", "--only", "marginal-value", "--policy", f"{user}:Mine"),
        *("--out", str(played), "--price-joules", "20", *files),
    ]
    assert stop.main(arguments) == 0
    first = capsys.readouterr().out
    found = json.loads(first.splitlines()[-1], parse_constant=pytest.fail)["categories"]["chain"]
    assert set(found["arms"]) >= {
        "full",
        "direct",
        "tail",
        "marginal-value",
        f"{user}:Mine",
        "permuted stops",
    }
    ratio, same = found["replay"]  # at the price it was played at, not at the one utilities are told at
    assert ratio == pytest.approx(1.0, abs=0.03) and same == 1.0
    assert found["arms"]["full"]["saved"]["value"] == pytest.approx(0.0, abs=1e-9)
    before = played.read_bytes()
    drawn = ["--plot", str(tmp_path / "arena.png")]
    assert stop.main(["--from", str(played), "--price-joules", "20", *files, *drawn]) == 0
    assert (tmp_path / "arena.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == first
    assert stop.main(arguments) == 0 and played.read_bytes() == before
    capsys.readouterr()
    lines = [json.loads(line) for line in before.decode().splitlines()]
    four = sorted({line["seed"] for line in lines})[:4]
    fewer = [one for one in lines if one["seed"] in four and (one["arm"], one["seed"]) != ("tail", four[0])]
    some = tmp_path / "some.jsonl"
    some.write_text("".join(json.dumps(line) + "\n" for line in fewer))
    assert stop.main(["--from", str(some), *files]) == 0
    out, err = capsys.readouterr()
    assert "### chain: 4 questions" in out, "of a log of six"
    assert "tail is left out: it played 3 of 4 questions" in err
    assert stop.main(["--from", str(some), "--part", "policies", *files]) == 2
    capsys.readouterr()
    assert stop.main(["--from", str(some), str(played), *files]) == 1
    assert "stands in these files twice" in capsys.readouterr().err


def test_a_model_without_a_curve_is_told_the_command(tmp_path, capsys):
    assert (
        calibrate.main(
            ["--backend", "torch", "--energy-source", "estimate", "--out", str(tmp_path / "a.jsonl")]
        )
        == 1
    )
    assert "python -m bench.curves" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--out"),
        (["--out", "a", "--split", "test"], "test split"),
        (["--from", "a", "--out", "b"], "--out has no meaning"),
        (["--out", "a", "--price-joules", "-1"], "--price-joules"),
        (["--out", "a", "--tasks", "testbed:poetry"], "poetry"),
    ],
)
def test_wrong_usage_is_one_line(arguments, complaint, capsys):
    assert calibrate.main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_nothing_is_fitted_to_the_test_split():
    runs = [
        log.Trace(tuple(replace(e, split="test") for e in t.checkpoints), replace(t.end, split="test"))
        for t in check_runs(CHECKER, 30, 0)
    ]
    with pytest.raises(UsageError, match="test split"):
        fit_rule(runs)


def test_too_few_runs_and_runs_of_two_models_are_refused():
    runs = check_runs(CHECKER, 5, 0)
    with pytest.raises(TokenjouleError, match="20 runs"):
        fit_rule(runs)
    other = log.Trace(runs[0].checkpoints, replace(runs[0].end, model="another"))
    with pytest.raises(TokenjouleError, match="several models"):
        fit_rule([*runs, other])
