"""What bench.calibrate and the arena refuse before they mix one setting's figures with another's."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from bench import calibrate
from bench.arena import outcomes
from bench.arena.arms import Arm
from bench.arena.outcomes import Played
from bench.arena.play import play
from bench.calibration import log
from bench.calibration.priced import Pricer
from bench.experiments import stop
from bench.routing import testbed
from engine.energy.curve_store import save_curve
from engine.errors import UsageError
from tests.curves import curve
from tests.noisy_checks import CHECKER, check_runs


def engine_of(model, quantization="none"):
    card = SimpleNamespace(id=model, quantization=quantization)
    return SimpleNamespace(origin=SimpleNamespace(card=card))


def test_joules_are_not_told_by_another_models_curve(tmp_path, capsys):
    path = save_curve(curve(), tmp_path / "curve.json")
    asked = ["--curve", str(path), "--out", str(tmp_path / "out.jsonl"), "--questions", "1"]
    for main, more in (
        (calibrate.main, []),
        (stop.main, ["--log", str(tmp_path / "log.jsonl")]),
        (testbed.main, ["--model", "bundled:chain"]),
    ):
        assert main([*asked, *more]) == 2
        said = capsys.readouterr().err
        assert f"{path}: the operating curve is of model 'toy', this run has 'chain'" in said


def test_a_rule_is_not_kept_in_a_curve_of_other_joules(tmp_path):
    path = save_curve(curve(), tmp_path / "curve.json")
    [run] = check_runs(CHECKER, 1, 0)

    def of(**changes):
        about = {"model": curve().fits.model, "quantization": curve().fits.quantization, **changes}
        return log.Trace(
            tuple(replace(entry, **about) for entry in run.checkpoints), replace(run.end, **about)
        )

    assert calibrate.curve_of([of(energy_source=Pricer(curve()).source)], path)[0] == path
    with pytest.raises(UsageError, match="the log's joules are by"):
        calibrate.curve_of([of(energy_source="another meter")], path)
    with pytest.raises(UsageError, match="the operating curve is of"):
        calibrate.curve_of([of(model="other")], path)


@pytest.mark.parametrize("count", ["0", "-3"])
def test_no_questions_are_not_the_usual_number_of_them(capsys, tmp_path, count):
    files = ["--out", str(tmp_path / "o.jsonl"), "--questions", count]
    assert calibrate.main(files) == 2
    assert stop.main([*files, "--log", str(tmp_path / "l.jsonl")]) == 2
    assert capsys.readouterr().err.count("--questions must be at least 1") == 2


def test_outcomes_at_another_price_are_not_continued(tmp_path):
    pricer = Pricer(curve())
    types = {"str": "x", "int": 1, "bool": False, "float": 1.0, "float | None": 2.0, "str | None": "t"}
    values = {
        name: types[str(getattr(kind, "__name__", kind))] for name, kind in Played.__annotations__.items()
    }
    line = replace(Played(**values), arm="marginal-value", model="m", energy_source=pricer.source, price=2.0)
    out = tmp_path / "runs.jsonl"
    outcomes.append(out, line)
    assert asdict(outcomes.read([out])[0]) == asdict(line)

    def go(price, rule="t"):
        engine = engine_of("m", "x")
        arms = [Arm("marginal-value", (), price, rule)]
        play(engine, pricer, arms, [], split="x", run="r", out=out, say=lambda said: None)

    go(2.0)
    with pytest.raises(UsageError, match="another rule needs another --out"):
        go(3.0)
    with pytest.raises(UsageError, match=r"by the rule of t, and it plays at 2\.0 by that of u now"):
        go(2.0, "u")
    out.write_bytes(out.read_bytes() + b'{"schema": "tok')
    go(2.0)
    assert outcomes.read([out]) == [line]
