"""bench.fit_probe on a small model of ours: from its runs to a file that stops it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import fit_probe
from bench.calibration import log, tasks
from bench.calibration.hidden_fit import LinearProbe
from bench.calibration.run import ask
from bench.calibration.states import layers_of
from bench.experiments import stop
from engine.energy.curve_store import save_curve
from engine.engine import Engine
from engine.steps import Phase
from engine.stop import HiddenProbe
from tests.chains import spelled
from tests.curves import curve
from tests.noisy_checks import CHECKER, check_runs

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

RUNS = 24
WHERE = ("--backend", "torch", "--energy-source", "estimate", "--tasks", "testbed:chain")


@pytest.fixture(scope="module", autouse=True)
def _chains_that_the_bundled_model_knows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "open_split", spelled)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a curve, a log with states of some chains, and the probe fitted to them."""
    folder = tmp_path_factory.mktemp("fitted")
    with Engine.load(backend="torch", energy_source="estimate") as engine:
        save_curve(replace(curve(), fits=engine.curve_key), folder / "curve.json")
    assert run(folder) == 0
    return folder


def run(folder: Path, *more: str) -> int:
    files = ("--log", "log.jsonl"), ("--out", "probe.npz"), ("--curve", "curve.json")
    named = [part for option, name in files for part in (option, str(folder / name))]
    return fit_probe.main([*WHERE, "--questions", str(RUNS), "--lose", "12", *named, *more])


def test_a_log_is_gone_on_from_and_fits_the_same_probe(made, tmp_path, capsys):
    whole = (made / "log.jsonl").read_bytes().splitlines(keepends=True)
    last = next(at for at, line in enumerate(whole) if json.loads(line)["seed"] == 2_000_000 + RUNS - 1)
    cut = tmp_path / "log.jsonl"
    cut.write_bytes(b"".join(whole[: last + 1]) + whole[last + 1][:50])  # killed while it wrote
    assert run(made, "--log", str(cut), "--out", str(tmp_path / "probe.npz")) == 0
    out, err = capsys.readouterr()
    assert f"1 questions to run, {RUNS - 1} in" in err
    assert "6 questions set the threshold, each worth 16.7 points: too few to tell a loss of 12" in err
    again = [json.loads(line) for line in cut.read_text().splitlines()]
    before = [json.loads(line) for line in whole]
    for entry in (*again, *before):
        entry["ledger_j"] = None  # what the meter booked is another run's
    assert again == before
    one, other = (np.load(folder / "probe.npz") for folder in (made, tmp_path))
    assert all(np.array_equal(one[name], other[name]) for name in ("w", "b", "layer", "threshold"))
    result = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert result["schema"] == fit_probe.SCHEMA and result["held_out"]["all"]["questions"] == RUNS // 4
    assert str(tmp_path / "probe.npz") == result["kept"]


def test_runs_stop_where_the_states_in_the_log_say(made):
    traces = log.read([made / "log.jsonl"])
    policy = HiddenProbe(str(made / "probe.npz"))
    assert policy.layer in layers_of(traces)
    held = np.load(made / "probe.npz")
    # Half way through what is seen, so that some stop early, some late.
    probe = LinearProbe(policy.layer, held["w"], float(held["b"]), 0.5)
    traces = [trace for trace in traces if 0 < probe.stops([trace])[0] < len(trace.checkpoints)][:4]
    assert traces
    asked = {q.seed: q for q in spelled("calibration", per_category=RUNS, categories=("chain",))}
    with Engine.load(backend="torch", energy_source="estimate") as engine:
        for trace, at in zip(traces, probe.stops(traces), strict=True):
            where = HiddenProbe(str(made / "probe.npz"), threshold=probe.threshold)
            _, result = ask(engine, asked[trace.end.seed], [where])
            written = sum(phase == Phase.THINK for phase in result.phases_by_token)
            assert result.stop.policy == "HiddenProbe"
            assert written == trace.checkpoints[at].think_tokens
            assert result.answer == trace.checkpoints[at].answer


def test_the_arena_plays_it_by_name(made, capsys):
    files = [("--log", "arena.jsonl"), ("--out", "runs.jsonl"), ("--curve", "curve.json")]
    named = [part for option, name in files for part in (option, str(made / name))]
    arm = f"hidden:file={made / 'probe.npz'}"
    assert stop.main([*WHERE, "--questions", "3", "--only", arm, "--price-joules", "20", *named]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["categories"]["chain"]
    assert arm in found["arms"]


def test_runs_without_states_are_not_gone_on_from(made, tmp_path, capsys):
    lines = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({**line, "states": None}) + "\n" for line in lines))
    assert run(made, "--log", str(bare)) == 2
    assert "holds runs without the states behind layers" in capsys.readouterr().err
    assert fit_probe.main(["--from", str(bare), "--out", str(tmp_path / "p.npz")]) == 1
    assert "the log holds no states" in capsys.readouterr().err
    asked = ["--from", str(made / "log.jsonl"), "--layers", "0,77", "--out", str(tmp_path / "p.npz")]
    assert fit_probe.main(asked) == 2
    assert "not behind 77" in capsys.readouterr().err
    assert not (tmp_path / "p.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--log"),
        (["--log", "a", "--split", "test"], "test split"),
        (["--log", "a", "--questions", "0"], "--questions must be at least 1"),
        (["--log", "a", "--lose", "-1"], "--lose"),
        (["--log", "a", "--lose", "nan"], "--lose"),
        (["--log", "a", "--layers", "-1"], "layers are at least 0"),
        (["--log", "a", "--layers", "last"], "layers"),
        (["--log", "a", "--out", "probe.safetensors"], ".npz"),
        (["--log", "probe.npz"], "the same file"),
        (["--from", "a", "--log", "b"], "--log has no meaning"),
        (["--from", "a", "--questions", "9"], "--questions has no meaning"),
        (["--log", "a", "--tasks", "testbed:poetry"], "poetry"),
    ],
)
def test_wrong_usage_is_one_line(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fit_probe.main(["--out", "probe.npz", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_the_model_lacks_is_one_line(made, tmp_path, capsys):
    files = ["--log", str(tmp_path / "log.jsonl"), "--layers", "99"]
    assert run(made, *files) in (1, 2)
    assert "hidden:99 of a model with" in capsys.readouterr().err


def test_runs_on_the_test_split_are_not_fitted_to(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    for trace in check_runs(CHECKER, 24, 0):
        entries = [*trace.checkpoints, trace.end]
        log.append(path, [replace(entry, split="test", states={"0": "AACAPw=="}) for entry in entries])
    assert fit_probe.main(["--from", str(path), "--out", str(tmp_path / "p.npz")]) == 2
    assert "test split" in capsys.readouterr().err
    assert not (tmp_path / "p.npz").exists()


def test_without_scikit_learn_a_line_says_what_to_install_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert fit_probe.main(["--log", str(tmp_path / "a"), "--out", str(tmp_path / "p.npz")]) == 1
    assert "pip install 'tokenjoule[router]'" in capsys.readouterr().err


def test_layers_are_spread_evenly_up_to_the_last():
    assert [fit_probe.spread(count) for count in (1, 5, 32)] == [(0,), (0, 1, 3, 4), (7, 15, 23, 31)]
