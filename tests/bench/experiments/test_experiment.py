"""The command line of the figures: cells measured on a tiny model, resumed, drawn again, refused."""

import json
from pathlib import Path

import pytest

from bench.experiments import fig1, fig2, fig3, fig4
from bench.experiments.subject import PRESETS
from bench.record import read
from engine.presets import PRESETS as KNOWN

FIGURES = {"fig1": fig1.main, "fig2": fig2.main, "fig3": fig3.main, "fig4": fig4.main}
QUICK = ["--window-seconds", "0", "--cool-down", "0", "--idle-seconds", "0.01"]
QUICK += ["--rounds", "2", "--most-rounds", "2", "--backend", "torch"]
CELLS = {
    "fig1": ["--prompts", "2"],
    "fig2": ["--prompt-tokens", "8,16,32"],
    "fig3": ["--prompt-tokens", "8,16", "--new-tokens", "1,2,4"],
    "fig4": ["--prompt-tokens", "8", "--new-tokens", "4"],
}
EXPECTED = {"fig1": 1, "fig2": 3, "fig3": 6, "fig4": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A simulated device whose counter moves every millisecond."""
    path = tmp_path_factory.mktemp("profile") / "quick.json"
    path.write_text('{"period_s": 0.001, "lag_s": 0.0, "window_s": 0.0}')
    return f"simulated:{path}"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("questions") / "q.jsonl"
    path.write_text("\n".join(json.dumps({"turns": [f"abcdefghij{i}", "k"]}) for i in range(4)))
    return str(path)


def last(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str, str]:
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]), captured.out, captured.err


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_measured_drawn_and_not_measured_again(
    figure: str,
    letters_directory: Path,
    source: str,
    questions: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "records.jsonl", tmp_path / "figure.png"
    common = [*QUICK, *CELLS[figure], "--model", str(letters_directory), "--questions", questions]
    command = [*common, "--energy-source", source, "--out", str(out)]
    assert FIGURES[figure](command) == 0
    summary, printed, told = last(capsys)
    assert summary["cells"] == summary["measured_now"] == EXPECTED[figure]
    assert (summary["source"], summary["measured"], summary["skipped"]) == ("simulated", False, {})
    assert "NOT MEASURED, source simulated" in told
    assert printed.startswith("joules NOT MEASURED: simulated\n")
    records = list(read([out]))
    assert {r.benchmark for r in records} == {figure}
    for record in records:
        energy = record.derived["energy"]
        assert energy.measured is False and (energy.value or 0) > 0
        assert len(record.metrics["energy"].samples) == 2
        taken = (record.metrics[name].samples for name in ("request_s", "requests"))
        assert all(seconds * count >= 0.019 for seconds, count in zip(*taken, strict=True))  # 20 ticks
        assert f"{figure}" in record.stamp.command[2]
    assert FIGURES[figure](command) == 0
    again, _, told = last(capsys)
    assert (again["cells"], again["measured_now"]) == (EXPECTED[figure], 0)
    assert "0 cells to measure" in told and "round" not in told
    assert len(list(read([out]))) == EXPECTED[figure]
    assert FIGURES[figure](["--from", str(out), "--plot", str(picture)]) == 0
    drawn, _, told = last(capsys)
    assert (drawn["cells"], drawn["measured_now"], told) == (EXPECTED[figure], 0, "")
    assert drawn["findings"] == again["findings"] and picture.stat().st_size > 20_000


def test_cells_of_other_settings_are_measured_anew_and_shown_apart(
    letters_directory: Path, source: str, questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.jsonl"
    command = [*QUICK, "--model", str(letters_directory), "--questions", questions, "--out", str(out)]
    command += ["--energy-source", source]
    assert fig2.main([*command, "--prompt-tokens", "8"]) == 0
    assert fig2.main([*command, "--prompt-tokens", "8,16"]) == 0
    summary, _, _ = last(capsys)
    assert (summary["cells"], summary["measured_now"]) == (2, 1)
    assert fig2.main([*command, "--prompt-tokens", "8", "--seed", "7"]) == 0
    summary, _, _ = last(capsys)
    assert (summary["cells"], summary["measured_now"]) == (1, 1)
    assert fig2.main([*command, "--prompt-tokens", "16"]) == 0
    summary, _, _ = last(capsys)
    assert (summary["cells"], summary["measured_now"]) == (1, 0)
    assert fig2.main(["--from", str(out)]) == 0
    summary, _, told = last(capsys)
    assert summary["cells"] == 1
    assert "2 cells that were measured in another way are left out" in told


def test_exactly_so_many_tokens_come_and_too_long_a_request_is_named(
    letters_directory: Path, questions: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "records.jsonl"
    command = [*QUICK, "--model", str(letters_directory), "--questions", questions, "--out", str(out)]
    grid = ["--prompt-tokens", "200", "--new-tokens", "3,100", "--energy-source", "estimate"]
    assert fig3.main([*command, *grid]) == 0
    _, _, told = last(capsys)
    assert "left out 300 tokens, the context holds 256" in told
    [record] = read([out])
    assert (record.case.context, record.case.new_tokens) == (200, 3)
    assert record.metrics["prompt_tokens"].samples == (200.0,)
    assert record.arm.note.startswith("energy by estimate (estimate: busy CPU time at ")
    assert record.case.shape_only is False


def test_a_preset_is_shape_only_and_one_that_does_not_fit_is_skipped_by_name(
    questions: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.placement.available_bytes", lambda device: 1000)
    command = [*QUICK, "--questions", questions, "--energy-source", "estimate", "--random-weights"]
    assert fig4.main([*command, "--model", "preset:llama-3.2-1b"]) == 1
    assert "no model could be measured: the weights take 2.5 GB" in capsys.readouterr().err
    assert fig4.main([*command[:-1], "--model", "preset:llama-3.2-1b"]) == 2
    assert "--random-weights" in capsys.readouterr().err


def test_the_presets_are_five_architectures_or_more_that_exist() -> None:
    assert len(PRESETS) >= 5
    assert {name.removeprefix("preset:") for name in PRESETS} <= set(KNOWN)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ([], 2, "name the models"),
        (["--model", "preset:none", "--random-weights"], 2, "unknown preset"),
        (["--model", "TINY", "--rounds", "1"], 2, "at least 2 rounds"),
        (["--model", "TINY", "--cool-down", "-1"], 2, "--cool-down must be finite and not negative"),
        (["--model", "TINY", "--cool-down", "inf"], 2, "--cool-down must be finite and not negative"),
        (["--model", "TINY", "--window-seconds", "inf"], 2, "--window-seconds must be finite"),
        (["--model", "TINY", "--idle-seconds", "nan"], 2, "--idle-seconds must be finite"),
        (["--model", "TINY", "--idle-seconds", "0"], 2, "--idle-seconds must be finite and more than 0"),
        (["--model", "TINY", "--energy-source", "warp"], 2, "unknown energy source"),
        (["--model", "TINY", "--energy-source", "estimate", "--require-measured"], 1, "is not one"),
        (["--model", "TINY", "--questions", "none.jsonl"], 1, "cannot read none.jsonl"),
        (["--model", "TINY", "--prompt-tokens", "0"], 2, "must be at least 1"),
        (["--model", "TINY", "--plot", "figure.txt"], 2, "a plot ends in"),
        (["--from", "none.jsonl"], 1, "cannot read none.jsonl"),
        (["--from", "none.jsonl", "--seed", "3"], 2, "--seed has no meaning with it"),
        (["--turn", "3"], 2, "invalid choice"),
    ],
)
def test_wrong_usage_is_one_line(
    argv: list[str],
    status: int,
    said: str,
    letters_directory: Path,
    questions: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(letters_directory) if word == "TINY" else word for word in argv]
    if "--model" in given and "--questions" not in given:
        given += ["--questions", questions]
    assert fig4.main(given) == status
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
