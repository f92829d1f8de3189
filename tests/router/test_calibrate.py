import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from engine.predict.outcomes import Outcome, read_outcomes, write_outcomes
from router.calibrate import held_out, main, split, with_features
from router.estimator import Estimator
from tests.router.planted import ARMS as NAMES
from tests.router.planted import plant

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

ARMS = "".join(
    [
        'fallback = "small"\n[models.m]\nbase_url = "http://127.0.0.1:9/v1"\nserved = "x"\n',
        *(f'[[arms]]\nname = "{name}"\nmodel = "m"\ntechnique = "direct"\n' for name in NAMES),
    ]
)
LOCAL = """fallback = "guess"
[models.m]
local = "bundled:chain"
backend = "torch"
[[arms]]
name = "guess"
model = "m"
technique = "direct"
[[arms]]
name = "think"
model = "m"
technique = "cot"
budget_tokens = 32
"""


def run(capsys, *argv: object) -> tuple[int, str, str]:
    status = main([str(part) for part in argv])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


@pytest.fixture
def stored(tmp_path):
    """Outcomes of remote arms, whose features are those of the text."""
    table = plant(np.random.default_rng(0), 240).table
    rows = []
    for q in range(240):
        text = "How many? " * (1 + int(5 * (1 + np.tanh(table.features[q, 0]))))
        for a, arm in enumerate(NAMES):
            tokens = int(table.prompt_tokens[q, a]), int(table.new_tokens[q, a])
            j, right = float(table.energy_j[q, a]), int(table.correct[q, a])
            rows.append(Outcome(f"q{q}", text + str(q), "c", arm, right, "x", *tokens, j, "table"))
    write_outcomes(tmp_path / "o.jsonl", rows)
    (tmp_path / "arms.toml").write_text(ARMS)
    return tmp_path


def test_outcomes_become_an_estimator_a_report_and_a_picture(capsys, stored):
    pytest.importorskip("matplotlib")
    out, picture = stored / "e.npz", stored / "p.png"
    status, text, _ = run(
        capsys,
        stored / "o.jsonl",
        "--out",
        out,
        "--arms",
        stored / "arms.toml",
        "--min-accuracy",
        "0.6",
        "--plot",
        picture,
    )
    report, found = json.loads(text), Estimator.load(out)
    assert status == 0 and report["questions"] == 60 and found.arms == NAMES
    assert found.features == "text" and picture.read_bytes().startswith(b"\x89PNG")
    assert set(report["arms"]) == set(NAMES) and 0.7 < report["arms"]["large"]["q90_coverage"] <= 1
    assert report["certificate"]["threshold"] == found.certificate.threshold
    assert report["frontier"][0][0] <= report["frontier"][-1][0]


def test_the_three_parts_share_no_question():
    table = plant(np.random.default_rng(0), 101).table
    parts = [set(part.questions) for part in split(table, 3)]
    assert [len(part) for part in parts] == [50, 25, 26]
    assert set().union(*parts) == set(table.questions)
    assert [set(part.questions) for part in split(table, 4)] != parts


def test_questions_of_one_text_are_not_torn_apart():
    table = plant(np.random.default_rng(0), 120).table
    table = replace(table, queries=np.array([f"text {q % 30}" for q in range(120)], dtype=object))
    parts = [set(part.queries) for part in split(table, 3)]
    assert [len(part) for part in parts] == [15, 7, 8] and len(set().union(*parts)) == 30


def test_an_arm_without_joules_is_in_the_report_and_out_of_the_frontier(capsys, stored):
    pytest.importorskip("matplotlib")
    rows = read_outcomes(stored / "o.jsonl")
    dumb = [replace(one, energy_j=None) if one.arm == "large" else one for one in rows]
    write_outcomes(stored / "o.jsonl", dumb)
    options = ["--out", stored / "e.npz", "--arms", stored / "arms.toml", "--plot", stored / "p.png"]
    status, text, err = run(capsys, stored / "o.jsonl", *options)
    report = json.loads(text)
    assert status == 0, err
    assert "NaN" not in text and report["arms"]["large"]["mean_j"] is None
    assert report["arms"]["large"]["q90_coverage"] is None and report["arms"]["large"]["accuracy"] > 0.5
    most = max(report["arms"][arm]["mean_j"] for arm in ("small", "middle"))
    assert report["frontier"] and all(0 < mean_j <= most * 1.01 for mean_j, _ in report["frontier"])


def test_a_report_is_worse_where_the_estimator_is_wrong():
    train, calibration, test = split(plant(np.random.default_rng(0), 300).table, 0)
    good = held_out(Estimator.fit(train, calibration), test)["arms"]["large"]
    wrong = replace(train, correct=1 - train.correct)
    bad = held_out(Estimator.fit(wrong, calibration), test)["arms"]["large"]
    assert good["ece"] < 0.2 < 0.4 < bad["ece"]
    assert good["log_loss"] < bad["log_loss"]


def test_arms_are_run_labelled_and_read_by_the_model_itself(capsys, tmp_path):
    (tmp_path / "arms.toml").write_text(LOCAL)
    sums = [f"{a}+{b}=" for a in range(10, 16) for b in range(4, 8)]
    lines = [json.dumps({"id": s, "prompt": s, "answer": str(eval(s[:-1])), "category": "sum"}) for s in sums]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    status, _, err = run(
        capsys,
        tmp_path / "o.jsonl",
        "--run",
        tmp_path / "q.jsonl",
        "--out",
        tmp_path / "e.npz",
        "--arms",
        tmp_path / "arms.toml",
    )
    assert status == 0, err
    outcomes, found = read_outcomes(tmp_path / "o.jsonl"), Estimator.load(tmp_path / "e.npz")
    assert len(outcomes) == 48 and found.features.startswith("chain/")
    thought = [one for one in outcomes if one.arm == "think"]
    assert np.mean([one.correct for one in thought]) > 0.9
    assert all(one.energy_j and one.energy_source and one.features and one.confidence for one in thought)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "prompt": "b"}', "answer"),
        ("[]", "no object"),
        ("{", "line 1"),
        ('{"id": 1, "prompt": "b", "answer": "c"}', "id"),
    ],
)
def test_questions_that_are_none_are_one_line(capsys, tmp_path, line, said):
    (tmp_path / "arms.toml").write_text(LOCAL)
    (tmp_path / "q.jsonl").write_text(line)
    status, _, err = run(
        capsys,
        tmp_path / "o.jsonl",
        "--run",
        tmp_path / "q.jsonl",
        "--out",
        tmp_path / "e.npz",
        "--arms",
        tmp_path / "arms.toml",
    )
    assert status == 1 and said in err and len(err.splitlines()) == 1


def test_outcomes_of_other_arms_are_refused(capsys, stored):
    status, _, err = run(capsys, stored / "o.jsonl", "--out", stored / "e.npz")
    assert status == 2 and "arms" in err and not (stored / "e.npz").exists()


def test_features_of_another_model_are_refused(capsys, tmp_path):
    (tmp_path / "arms.toml").write_text(LOCAL)
    row = Outcome("q", "1+1=", None, "guess", 1, "2", 3, 1, 0.1, "estimate", features=(1.0, 2.0))
    write_outcomes(tmp_path / "o.jsonl", [row, replace(row, arm="think")])
    status, _, err = run(
        capsys, tmp_path / "o.jsonl", "--out", tmp_path / "e.npz", "--arms", tmp_path / "arms.toml"
    )
    assert status == 1 and "2 features" in err


def test_a_run_that_was_killed_goes_on_where_it_was(capsys, tmp_path):
    (tmp_path / "arms.toml").write_text(LOCAL)
    out, asked = tmp_path / "o.jsonl", tmp_path / "q.jsonl"
    sums = [f"{a}+{b}=" for a in range(10, 16) for b in range(4, 8)]
    lines = [json.dumps({"id": s, "prompt": s, "answer": str(eval(s[:-1]))}) for s in sums]
    asked.write_text("\n".join(lines))
    given = [out, "--run", asked, "--out", tmp_path / "e.npz", "--arms", tmp_path / "arms.toml"]
    status, _, err = run(capsys, *given)
    assert status == 0 and "24 questions to run, 0 in" in err
    whole = out.read_text().splitlines(keepends=True)
    out.write_text("".join(whole[:41]) + whole[41][:30])
    status, report, err = run(capsys, *given)
    assert status == 0 and "4 questions to run, 20 in" in err and json.loads(report)["questions"] == 6
    assert out.read_text().splitlines(keepends=True)[:41] == whole[:41] and len(read_outcomes(out)) == 48
    status, _, err = run(capsys, *given, "--grade", "number")
    assert status == 2 and "graded exact, and is" in err


def test_what_cost_joules_is_never_overwritten(capsys, stored):
    outcomes, before = stored / "o.jsonl", (stored / "o.jsonl").read_bytes()
    asked = (f'{{"id": "{n}", "prompt": "{n}?", "answer": "c"}}\n' for n in range(20))
    (stored / "q.jsonl").write_text("".join(asked))
    arms = ("--arms", stored / "arms.toml")
    status, _, err = run(capsys, outcomes, "--out", outcomes, *arms)
    assert status == 2 and "same file" in err
    status, _, err = run(capsys, outcomes, "--run", stored / "q.jsonl", "--out", stored / "e.npz", *arms)
    assert status == 2 and "the setting is not told" in err
    assert outcomes.read_bytes() == before and not (stored / "e.npz").exists()


def test_what_cannot_come_to_anything_is_said_before_anything_is_asked(capsys, stored):
    out = stored / "new.jsonl"
    given = [out, "--run", stored / "q.jsonl", "--out", stored / "e.npz", "--arms", stored / "arms.toml"]
    (stored / "q.jsonl").write_text('{"id": "a", "prompt": "b", "answer": "c"}')
    status, _, err = run(capsys, *given)
    assert status == 1 and "has 1 different questions; at least 20 are needed" in err and not out.exists()
    status, _, err = run(capsys, *given, "--plot", stored / "p.txt")
    assert status == 2 and "a plot ends in" in err and not out.exists()


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_place_that_cannot_be_written_is_said_before_anything_runs(capsys, stored, option):
    places = {"--out": stored / "e.npz", "--plot": stored / "p.png", option: stored / "none" / "x.png"}
    given = [part for pair in places.items() for part in pair]
    status, out, err = run(capsys, stored / "missing.jsonl", *given, "--arms", stored / "arms.toml")
    assert (status, out) == (1, "") and err.startswith("tokenjoule: cannot write")


@pytest.mark.parametrize(
    "wrong", [["--seed", "-1"], ["--min-accuracy", "1.5"], ["--delta", "0"], ["--kind", "forest"]]
)
def test_wrong_usage_is_2(capsys, stored, wrong):
    assert run(capsys, stored / "o.jsonl", "--out", stored / "e.npz", *wrong)[0] == 2


def test_text_features_stand_in_where_outcomes_have_none():
    table = replace(plant(np.random.default_rng(0), 5).table, features=None)
    assert with_features(table).features.shape[0] == 5


def test_without_scikit_learn_nothing_is_run_and_one_line_says_what_is_needed(capsys, stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, _, err = run(capsys, stored / "new.jsonl", "--run", stored / "q.jsonl", "--out", stored / "e.npz")
    assert status == 1 and "scikit-learn" in err and len(err.splitlines()) == 1
    assert not (stored / "new.jsonl").exists()
