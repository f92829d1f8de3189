import json

import pytest

from router.route import main
from tests.router.planted_router import ARMS, NOWHERE, QUERY, arms_of, planted

NEAR = ["--energy-source", "estimate"]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main([*argv, *NEAR])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


@pytest.fixture
def files(tmp_path):
    """The options that name arms and estimator."""
    arms = arms_of(tmp_path)
    planted(arms, ask=0.1).save(tmp_path / "e.npz")
    return ["--arms", str(tmp_path / "arms.toml"), "--estimator", str(tmp_path / "e.npz")]


def test_the_answer_is_on_stdout_and_why_on_stderr(capsys, files):
    status, out, err = run(capsys, QUERY, "--explain", "--budget-joules", "2", *files)
    assert (status, out) == (0, "64\n")
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["guess", "brief", "think", "vote", "ask"]
    assert "p 0.80 (0.70 to 0.85)" in lines[2] and "out: 4.5 J" in lines[3]
    assert lines[5].startswith("chosen: think, 64 tokens of thinking: the likeliest")
    assert "not measured: estimate" in lines[6]


def test_json_is_one_object_and_nothing_else(capsys, files):
    status, out, err = run(capsys, QUERY, "--json", "--carbon", "400", *files)
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["schema"] == "tokenjoule.route/1" and found["answer"] == "64"
    assert found["grams"] == pytest.approx(found["energy"]["total_j"] / 3.6e6 * 400)
    parts = [found["energy"][f"{part}_j"] for part in ("router", "features", "failed", "answer")]
    assert parts[0] is None and sum(parts[1:]) == pytest.approx(found["energy"]["total_j"])


def test_the_arms_that_come_along_answer_without_anything_else(capsys):
    status, out, err = run(capsys, "a+5b-8>47=")
    assert (status, out) == (0, "44\n") and err.startswith("testbed-l/cot-128: ")


def test_an_accuracy_that_is_not_certified_is_said_to_be_an_estimate(capsys, files):
    status, _, err = run(capsys, QUERY, "--min-accuracy", "0.45", "--explain", *files)
    assert status == 0 and "chosen: brief" in err and "not certified" in err


def test_infeasible_exits_with_1_in_strict_mode_alone(capsys, files):
    status, out, err = run(capsys, QUERY, "--budget-joules", "0.000001", "--strict", *files)
    assert (status, out) == (1, "\n") and "infeasible" in err
    status, out, err = run(capsys, QUERY, "--budget-joules", "0.000001", *files)
    assert status == 0 and out.strip()


def test_many_queries_are_a_line_each_and_share_the_hours_joules(capsys, files, tmp_path):
    lines = [json.dumps({"prompt": QUERY, "id": n}) for n in range(3)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    status, out, _ = run(capsys, "--prompts", str(tmp_path / "many.jsonl"), "--hourly-joules", "3", *files)
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [one["id"] for one in found] == [0, 1, 2]
    assert sum(one["energy"]["total_j"] for one in found) <= 3
    thinks = [one["choices"][0]["budget_tokens"] for one in found]
    assert thinks[0] == 64 > thinks[1] >= thinks[2], "what the first took has tightened the next"


@pytest.mark.parametrize("content", [None, b"garbage"], ids=["missing", "garbage"])
def test_an_estimator_that_cannot_be_read_costs_no_answer(capsys, files, tmp_path, content):
    path = tmp_path / "bad.npz"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run(capsys, QUERY, *files[:2], "--estimator", str(path))
    assert (status, out) == (0, "64\n") and "bad.npz is no estimator" in err


def test_stale_carbon_data_cost_no_answer(capsys, files, tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("time,average_g_per_kwh\n2020-01-01T00:00:00Z,100\n")
    status, out, err = run(capsys, QUERY, "--carbon", str(path), "--max-grams", "1", "--explain", *files)
    assert (status, bool(out.strip())) == (0, True)
    assert "stale" in err and "cannot be checked" in err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--prompts", "many.jsonl"],
        ["--carbon", "watttime:X"],
        ["--max-grams", "1"],
        ["--pue", "1.5"],
        ["--carbon-kind", "marginal"],
        ["--carbon", "250", "--pue", "0"],
        ["--seed", "-1"],
        ["--hourly-joules", "inf"],
        ["--memory-gb", "nan"],
        ["--budget-joules", "-1"],
        ["--queue", "-1"],
        ["--min-accuracy", "nan"],
        ["--min-accuracy", "95"],
        ["--min-accuracy", "0"],
        ["--price-joules", "x"],
        ["--no-such-flag"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_one_line(capsys, files, wrong):
    status, out, err = run(capsys, QUERY, *files, *wrong)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1


def test_wrong_arms_are_one_line_with_their_place(capsys, tmp_path):
    path = tmp_path / "arms.toml"
    text = ARMS.format(url=NOWHERE).replace('technique = "vote"', 'technique = "veto"')
    path.write_text(text)
    line = text[: text.index("veto")].count("\n") + 1
    status, _, err = run(capsys, QUERY, "--arms", str(path))
    assert status == 1 and f"line {line}:" in err and "veto" in err
