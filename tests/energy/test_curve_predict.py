"""The engine uses the curve of its own model, device and source, and says so; else all is as before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.energy.curve import CurveKey, OperatingCurve
from engine.energy.curve_predict import CurvePredictor
from engine.energy.curve_store import file_name, save_curve, user_curves
from engine.energy.power_model import Noise, PowerModel
from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.steps import Context, Step
from engine.stop import Policy
from kernels.cost import RowWork
from tests import cli, curves
from tests.cli import PROMPT
from tests.letters import CountedMeter

IDS = [5, 6, 7, 8]
WATTS = 10.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path / "cache"))


def load(directory: Path, **options: Any) -> Engine:
    return Engine.load(directory, meter=CountedMeter(watts=WATTS), **options)  # type: ignore[arg-type]


def keep(key: CurveKey) -> OperatingCurve:
    made = replace(curves.flat_curve(0.001, 0.001 * WATTS), fits=key)
    save_curve(made)
    return made


class Watching(Policy):
    """Notes what it is told, and what the first step is predicted to cost."""

    seen: list[Any] = []  # noqa: RUF012  # shared by the copies of every row

    def reset(self, context: Context) -> None:
        self.seen.append(context.curve)

    def on_token(self, step: Step) -> None:
        if step.index == 0:
            self.seen.append(step.predicted_j(10))


def test_a_curve_is_taken_by_the_engine_that_it_was_fitted_for(letters_directory: Path) -> None:
    Watching.seen.clear()
    with load(letters_directory) as engine:
        assert engine.curve is None
        plain = engine.generate(IDS, max_new_tokens=9, budget_joules=100, policies=[Watching()])
        key = engine.curve_key
    made = keep(key)
    with load(letters_directory) as engine:
        assert engine.curve == made
        told = engine.generate(IDS, max_new_tokens=9, budget_joules=100, policies=[Watching()])
    assert [plain.budget.predictor, told.budget.predictor] == ["warm-up", "curve"]
    assert told.to_json()["budget"]["predictor"] == "curve"
    assert told.token_ids == plain.token_ids
    none, _, given, predicted_j = Watching.seen
    assert none is None and given == made
    # Ten steps of 1 ms at the meter's 10 W, before any step has corrected that.
    assert predicted_j == pytest.approx(0.1, rel=0.05)


def test_every_part_of_the_key_decides(letters_directory: Path) -> None:
    with load(letters_directory) as engine:
        key = engine.curve_key
    assert (key.quantization, key.dtype, key.source) == ("none", "float32", "estimate")
    for change in ({"device": "another"}, {"backend": "gpu"}, {"source": "nvml"}, {"peak_w": 700.0}):
        keep(replace(key, **change))
    with load(letters_directory) as engine:
        assert engine.curve is None
        assert engine.generate(IDS, max_new_tokens=3, budget_joules=9).budget.predictor == "warm-up"
    keep(key)
    with load(letters_directory, backend="torch") as engine:
        assert (engine.curve is None) == (key.backend != "torch")
    with load(letters_directory, profile=True) as engine:
        assert engine.curve is None, "stages that are waited for cost more than the curve says"


def test_a_named_curve_predicts_where_it_was_fitted_and_nowhere_else(
    letters_directory: Path, tmp_path: Path
) -> None:
    with load(letters_directory, curve="none") as engine:
        key = engine.curve_key
    keep(key)
    power = PowerModel(("idle",), (90.0,), ((4.0,),), {}, Noise(), 1.0, 12, 3)
    told = {}
    for device in (key.device, "another"):
        made = replace(curves.flat_curve(0.002, 0.001), fits=replace(key, device=device), power=power)
        path = save_curve(made, tmp_path / f"{device}.json")
        Watching.seen.clear()
        with load(letters_directory, curve=path) as engine:
            assert engine.curve == made, "not the one that is kept here"
            session = engine.start([IDS], max_new_tokens=3, budget_joules=100, policies=[Watching()])
            assert session.ledger._power == (power if device == key.device else None)
            assert sum(1 for _ in session.steps()) == 3
            assert (
                engine.forecast.minimum_j([200]) != pytest.approx(made.minimum_j([200]))
                or device == key.device
            )
        told[device] = (session.results()[0].budget.predictor, Watching.seen[0])
    assert told == {
        key.device: ("curve", replace(made, fits=key)),
        "another": ("warm-up (curve of another device or source)", None),
    }
    with load(letters_directory, curve="none") as engine:
        assert engine.curve is None


def test_a_profiled_run_is_not_predicted_by_a_named_curve(letters_directory: Path, tmp_path: Path) -> None:
    with load(letters_directory) as engine:
        made = replace(curves.flat_curve(0.002, 0.001), fits=engine.curve_key)
    path = save_curve(made, tmp_path / "named.json")
    with load(letters_directory, curve=path, profile=True) as engine:
        assert engine.curve == made and engine.predictor.curve is None


def test_a_curve_of_one_simulated_profile_is_not_taken_for_another(
    letters_directory: Path, tmp_path: Path
) -> None:
    slow, fast = tmp_path / "slow.json", tmp_path / "fast.json"
    slow.write_text('{"period_s": 0.05}')  # the same most power: the profile alone tells them apart
    fast.write_text('{"period_s": 0.02}')
    with Engine.load(letters_directory, energy_source=f"simulated:{slow}") as engine:
        keep(engine.curve_key)
    for source, found in ((f"simulated:{slow}", True), (f"simulated:{fast}", False), ("simulated", False)):
        with Engine.load(letters_directory, energy_source=source) as engine:
            assert (engine.curve is not None) == found
    assert engine.curve_key.source == "simulated"


def test_the_least_budget_is_the_curves(letters_directory: Path) -> None:
    with load(letters_directory) as engine:
        made = keep(engine.curve_key)
    minimum_j = made.minimum_j([200])
    assert minimum_j == pytest.approx(200 / 8 * 0.01 * 0.96)
    with load(letters_directory) as engine:
        with pytest.raises(TokenjouleError, match=f"predicted minimum of {minimum_j:.3g} J"):
            engine.generate([1] * 200, budget_joules=minimum_j * 0.99)
        assert engine.generate([1] * 200, max_new_tokens=2, budget_joules=minimum_j * 1.01).error is None


def test_a_curve_far_off_keeps_no_budget_and_the_result_says_so(letters_directory: Path) -> None:
    with load(letters_directory) as engine:
        made = keep(engine.curve_key)
    save_curve(replace(made, tested=replace(made.tested, energy_mape=0.4)))
    Watching.seen.clear()
    with load(letters_directory) as engine:
        assert engine.curve is not None and engine.predictor.curve is None
        assert engine.forecast.minimum_j([200]) != pytest.approx(made.minimum_j([200]), rel=1e-6)
        told = engine.generate(IDS, max_new_tokens=9, budget_joules=100, policies=[Watching()])
    assert told.budget.predictor == "warm-up (curve refused)"
    assert Watching.seen[0] is None, "a policy is not to predict by it, either"


def test_a_damaged_curve_stops_the_engine_in_one_line(
    letters_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with load(letters_directory) as engine:
        made = replace(curves.curve(), fits=engine.curve_key)
    path = save_curve(made)
    path.write_text("{}")
    with pytest.raises(TokenjouleError, match="is no operating curve"):
        load(letters_directory)


def test_the_command_line_says_what_it_predicts_by(capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.load() as engine:
        keep(replace(engine.curve_key))
    status, out, err = cli.run(capsys, PROMPT, "--json", "--budget-joules", "400")
    assert status == 0
    assert json.loads(out)["budget"]["predictor"] == "curve"
    assert "predictions: by the operating curve of 2026-01-02, 1.0% off on requests it had not seen" in err


def test_the_command_line_says_that_a_curve_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.load() as engine:
        made = keep(engine.curve_key)
    save_curve(replace(made, tested=replace(made.tested, seconds_mape=0.311)))
    status, out, err = cli.run(capsys, PROMPT, "--json", "--budget-joules", "400")
    assert status == 0
    assert json.loads(out)["budget"]["predictor"] == "warm-up (curve refused)"
    [line] = [line for line in err.splitlines() if line.startswith("predictions: ")]
    assert "by the warm-up" in line and "31.1% off on requests it had not seen, more than 25%" in line


def test_the_command_line_takes_a_curve_or_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Engine.load() as engine:
        key = engine.curve_key
    save_curve(curves.curve()).rename(user_curves() / file_name(key))  # one that would be refused
    assert cli.run(capsys, PROMPT)[0] == 1
    status, out, err = cli.run(capsys, PROMPT, "--curve", "none", "--json", "--budget-joules", "400")
    assert (status, json.loads(out)["budget"]["predictor"]) == (0, "warm-up")
    assert "predictions" not in err
    for name, changes, wanted in (
        ("curve", {}, "by the operating curve of 2026-01-02"),
        (
            "warm-up (curve of another device or source)",
            {"device": "a chip"},
            "AND IT HOLDS NO STOPPING RULE",
        ),
    ):
        path = save_curve(
            replace(curves.flat_curve(1e-3, 1e-3), fits=replace(key, **changes)), tmp_path / "c"
        )
        status, out, err = cli.run(
            capsys, PROMPT, "--curve", str(path), "--json", "--budget-joules", "400", "--max-new-tokens", "3"
        )
        assert (status, json.loads(out)["budget"]["predictor"]) == (0, name)
        assert wanted in err


def test_a_curve_that_cannot_be_used_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = save_curve(curves.curve(), tmp_path / "c.json")
    before = path.read_bytes()
    for named, more, status, said in (
        (str(path), (), 2, "c.json: the operating curve is of model 'toy', this run has 'chain'"),
        (str(tmp_path / "none.json"), (), 1, "cannot read the operating curve"),
        ("", (), 2, "--curve needs the name of a file"),
        (str(path), ("--trace", str(path)), 2, "are the same file"),
    ):
        found, out, err = cli.run(capsys, PROMPT, "--curve", named, *more)
        assert (found, out) == (status, "") and said in err.splitlines()[-1]
    assert path.read_bytes() == before


def test_a_clean_clone_stops_by_the_rule_that_was_frozen_for_the_bundled_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frozen = Path(__file__).parents[2] / "bench" / "results" / "testbed-s-curve.json"
    named = ("--model", "bundled:testbed-s", "--curve", str(frozen), "--stop", "auto", "--json")
    status, out, err = cli.run(capsys, "5206~", *named, "--energy-source", "simulated")
    assert status == 0 and "its stopping rule alone is used" in err
    stopped = json.loads(out)["stop"]
    [used] = stopped["policies"]
    assert (stopped["reason"], used["name"]) == ("policy", "MarginalValue")
    assert "the stopping rule that was calibrated for this model, 2026-11-28" in used["description"]
    assert "rule and price weigh that curve's joules" in used["description"]


def test_a_step_is_the_curves_and_an_injection_a_step_with_some_prefill() -> None:
    made = curves.curve()
    predictor = CurvePredictor(made)
    rows = [RowWork(1, 100), RowWork(1, 100)]
    assert predictor.seconds(rows) * curves.DECODE_W == pytest.approx(made.step_j(100, 2)[0])
    _, _, token, square, *_ = curves.PLANTED_J
    injected_j = predictor.seconds([RowWork(4, 103)]) * curves.DECODE_W
    further_j = 3 * token + square * (103**2 - 100**2)
    assert injected_j == pytest.approx(made.step_j(103)[0] + further_j)
    assert predictor.prefill_seconds(50) == pytest.approx(made.predict_s(50, 1)[0])
    assert predictor.request_seconds([50, 50], 21) == pytest.approx(made.predict_s(50, 21, 2)[0], rel=0.01)


def test_what_a_run_sees_corrects_the_curve() -> None:
    predictor = CurvePredictor(curves.curve())
    rows = [RowWork(1, 100)]
    right_s = predictor.seconds(rows)
    for _ in range(100):
        predictor.observe(rows, 2 * right_s)
    assert predictor.seconds(rows) == pytest.approx(2 * right_s, rel=0.01)
