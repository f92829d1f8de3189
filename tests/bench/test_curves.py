"""`python -m bench.curves`, on the bundled model with sources that need no hardware."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import curves as command
from bench.curve_records import curve_of, record, table
from bench.curve_requests import EngineRequests, Sampler, Size, Taken, sizes
from bench.curves import main
from bench.record import Record, append, read
from engine.energy.attribution import StepMark
from engine.energy.curve_json import from_json
from engine.energy.curve_store import file_name, find_curve, save_curve, user_curves
from engine.energy.power_model import Noise, PowerModel
from engine.engine import Engine
from engine.errors import TokenjouleError
from tests import curves
from tests.bench.records import STAMP
from tests.curves import KEY, PricedModel, noisy_samples, preparing, simulated_device


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of what a run takes: the requests' joules are not judged here."""
    monkeypatch.setattr("bench.curves._LONGEST_SHARE", 1 / 600)
    monkeypatch.setattr("bench.curve_requests.LEAST_S", 0.01)


def records(number: int = 120, *, seed: int = 0, measured: bool = False) -> list[Record]:
    """As a run leaves them: of planted joules, by the simulated sensor of `tests.curves`."""
    device = simulated_device(period_s=0.02)
    model = PricedModel(device, np.random.default_rng(seed), noise=0.01)
    taken = Sampler(device.poller, preparing(device, model), Size(8, 8, 1)).take(Size(9, 9, 1))
    report = replace(taken.report, measured=measured)
    return [
        record(
            KEY,
            STAMP,
            Taken(
                Size(s.prompt_tokens, s.new_tokens, s.rows), (s.energy_j,), (s.elapsed_s,), report, taken.run
            ),
            shape_only=False,
        )
        for s in noisy_samples(np.random.default_rng(seed), number, noise=0.01)
    ]


@pytest.mark.parametrize("source", ["estimate", pytest.param("simulated:fast.json", marks=pytest.mark.slow)])
def test_the_whole_command_in_seconds(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fast.json").write_text('{"period_s": 0.002, "lag_s": 0.001, "window_s": 0.001}')
    monkeypatch.setattr("bench.curves.monotonic", count(step=0.4).__next__)  # as many on a busy machine,
    few = lambda self, longest_s: lambda size: size.rows * size.length <= 100  # noqa: E731  # and as long
    monkeypatch.setattr(EngineRequests, "fits", few)
    out = tmp_path / "curves.jsonl"
    options = ["--energy-source", source, "--minutes", "0.6", "--out", str(out), "--rows", "1,2"]
    options += ["--backend", "torch"]  # on one thread: two wait for each other on a busy machine
    assert main([*options, "--json"]) == 0
    printed, said = capsys.readouterr()
    curve = from_json(json.loads(printed))
    assert not curve.measured and curve.fits.source.partition(":")[0] == source.partition(":")[0]
    assert curve.provenance.note.startswith(("estimate: busy CPU time", "simulation"))
    assert curve.fits.model == "chain" and curve.tested.rows == (1, 2)
    assert "kept in" in said
    with Engine.load(energy_source=source, backend="torch") as engine:
        assert engine.curve == curve == find_curve(engine.curve_key)
    assert main(["--from", str(out), "--json", "--save", str(tmp_path / "again.json")]) == 0
    assert from_json(json.loads(capsys.readouterr().out)) == replace(curve, power=None)
    assert (curve.power is None) == (source == "estimate"), "a source that ticks tells powers"


def test_too_short_a_run_is_refused_and_leaves_its_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.curves.monotonic", count(step=5.0).__next__)
    out = tmp_path / "curves.jsonl"
    options = ["--minutes", "1", "--energy-source", "estimate", "--backend", "torch", "--out", str(out)]
    assert main(options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "11 requests are too few for an operating curve, which takes 76" in error
    assert len(list(read([out]))) == 11
    assert not user_curves().exists()


def test_an_interrupt_keeps_what_was_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    took, calls = Sampler.take, count()

    def twice(self: Sampler, size: Size) -> Taken:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return took(self, size)

    monkeypatch.setattr(Sampler, "take", twice)
    out = tmp_path / "curves.jsonl"
    options = ["--energy-source", "estimate", "--backend", "torch", "--minutes", "1", "--out", str(out)]
    assert main(options) == 130
    assert len(list(read([out]))) == 2
    assert f"2 requests are in {out}; --from fits them" in capsys.readouterr().err


def test_a_damaged_curve_in_the_cache_does_not_keep_from_fitting_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.load(energy_source="estimate", backend="torch") as engine:
        path = user_curves() / file_name(engine.curve_key)
    path.parent.mkdir(parents=True)
    path.write_text("{broken")
    with pytest.raises(TokenjouleError, match=r"is no operating curve.*fit the curve anew"):
        Engine.load(energy_source="estimate", backend="torch")
    monkeypatch.setattr("bench.curves.monotonic", count(step=30.0).__next__)
    options = ["--energy-source", "estimate", "--backend", "torch", "--minutes", "1"]
    assert main(options) == 1
    assert "too few for an operating curve" in capsys.readouterr().err, "requests were run"


def test_a_fit_keeps_what_the_curve_before_it_held_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curves.jsonl"
    append(path, records())
    assert main(["--from", str(path)]) == 0
    first = find_curve(KEY)
    assert first is not None and first.power is None
    power = PowerModel(("idle",), (90.0,), ((4.0,),), {}, Noise(), 1.0, 12, 3)
    accuracy = {"version": 1, "anything": [1, 2]}
    save_curve(replace(first, power=power, accuracy=accuracy))
    assert main(["--from", str(path)]) == 0
    assert find_curve(KEY) == replace(first, power=power, accuracy=accuracy)
    other_run = replace(first.provenance, date="2020-01-01T00:00:00+00:00")
    kept = save_curve(replace(first, power=power, accuracy=accuracy, provenance=other_run))
    assert main(["--from", str(path)]) == 0
    assert find_curve(KEY) == replace(first, accuracy=accuracy), "powers of another run are not this fit's"
    capsys.readouterr()
    kept.write_text("{broken")
    assert main(["--from", str(path)]) == 0
    assert "replaced:" in capsys.readouterr().err and find_curve(KEY) == first


@pytest.mark.parametrize("measured", [False, True])
def test_records_give_the_planted_curve_and_say_whether_it_was_measured(
    measured: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curves.jsonl"
    append(path, records(measured=measured))
    assert main(["--from", str(path)]) == 0
    printed = capsys.readouterr().out
    assert ("energy measured," in printed) == measured
    assert ("energy NOT MEASURED," in printed) != measured
    found = find_curve(KEY)
    assert found is not None and found.measured == measured
    assert found.predict(300, 50, 2)[0] == pytest.approx(curves.curve().predict(300, 50, 2)[0], rel=0.02)
    assert found.provenance.commit == STAMP.commit and found.provenance.date == STAMP.utc
    assert "60 requests fitted, 30 for the bands, 30 held out" in table(found)
    assert "REFUSED" not in table(found)
    assert "REFUSED for budgets" in table(replace(found, tested=replace(found.tested, seconds_mape=0.3)))


def test_the_newest_run_of_a_file_counts_and_mixed_ones_are_refused(tmp_path: Path) -> None:
    run = records()
    with pytest.raises(TokenjouleError, match="several models, backends or devices"):
        curve_of([*run, replace(run[0], arm=replace(run[0].arm, backend="gpu"))])
    with pytest.raises(TokenjouleError, match="do not say what they were run on"):
        curve_of([replace(r, arm=replace(r.arm, note="by hand")) for r in run])
    with pytest.raises(TokenjouleError, match="no request was run"):
        curve_of([])


def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    append(tmp_path / "curves.jsonl", records())
    picture = tmp_path / "curve.png"
    assert main(["--from", str(tmp_path / "curves.jsonl"), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--minutes", "0"], 2, "--minutes must be positive"),
        (["--minutes", "nan"], 2, "--minutes must be positive"),
        (["--from", "absent.jsonl"], 1, "cannot read absent.jsonl"),
        (["--from", "a.jsonl", "--minutes", "1"], 2, "--minutes has no meaning with it"),
        (["--from", "a.jsonl", "--random-weights"], 2, "--random-weights has no meaning with it"),
        (["--energy-source", "replay:a.jsonl"], 2, "a replayed recording"),
        (["--plot", "curve.txt"], 2, "a plot ends in"),
        (["--out", "absent/curves.jsonl"], 2, "there is no folder absent"),
        (["--rows", "0"], 2, "at least 1"),
        (["--speed"], 2, "unrecognized arguments"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == status
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and said in error[0]


def test_sizes_spread_over_the_context_and_keep_to_what_fits() -> None:
    rng = np.random.default_rng(0)
    drawn = sizes(4096, (1, 8), lambda size: size.rows * size.length <= 8000, rng)
    found = [next(drawn) for _ in range(500)]
    assert all(size.length <= 4096 and size.rows * size.length <= 8000 for size in found)
    assert min(s.prompt_tokens for s in found) < 12 and max(s.prompt_tokens for s in found) > 2500
    assert min(s.new_tokens for s in found) == 1 and max(s.new_tokens for s in found) > 1500
    assert {size.rows for size in found} == {1, 8}
    assert len({(size.prompt_tokens, size.new_tokens) for size in found}) > 400
    with pytest.raises(TokenjouleError, match="hardly any request fits"):
        next(sizes(4096, (1,), lambda size: False, rng))


def test_a_request_runs_to_its_limit_and_no_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.load(energy_source="estimate") as engine:
        requests = EngineRequests(engine, np.random.default_rng(0))
        run = requests.prepare(Size(20, 30, 2))
        run()
        assert not requests.fits(0.0)(Size(20, 30, 2)) and requests.fits(60.0)(Size(20, 30, 2))
        monkeypatch.setattr("engine.model.Model.forward", _broken)
        with pytest.raises(TokenjouleError, match="failed: the device is gone"):
            requests.prepare(Size(20, 30, 2))()


def _broken(*given: Any, **options: Any) -> None:
    raise TokenjouleError("the device is gone")


def test_on_a_meter_that_ticks_the_device_is_busy_around_a_sample() -> None:
    """A sample of 100 ms ticks, alone on a device that idles, reads too low where the sensor is unknown."""
    device = simulated_device(period_s=0.1)
    device.meter.sensor = replace(device.meter.sensor, lag_s=None, window_s=None)
    model = PricedModel(device, np.random.default_rng(0), noise=0.0)
    prepare = preparing(device, model)
    sampler = Sampler(device.poller, prepare, Size(8, 8, 1))
    size = Size(100, 20, 2)
    planted_j = curves.curve().predict(100, 20, 2)[0]
    errors, bare = [], []
    for pause_s in np.linspace(0, 0.1, 12):
        device.spend(curves.IDLE_W, 0.5 + float(pause_s))
        taken = sampler.take(size)
        assert sum(taken.elapsed_s) >= 1.0 and len(taken.energies_j) == len(taken.elapsed_s) > 1
        errors.append(taken.sample.energy_j / planted_j - 1)
        device.spend(curves.IDLE_W, 0.5 + float(pause_s))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler, "_fill", lambda ledger: [])
            bare.append(sampler.take(size).sample.energy_j / planted_j - 1)
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(bare) < np.mean(errors) - 0.005


def test_what_a_device_captures_for_a_size_is_over_before_its_account_begins() -> None:
    device = simulated_device(period_s=0.1)
    prepare = preparing(device, PricedModel(device, np.random.default_rng(0), noise=0.0))
    known = set[Size]()

    def capturing(size: Size) -> Callable[[], Sequence[StepMark]]:
        if size not in known:
            known.add(size)
            device.spend(curves.IDLE_W, 3.0)
        return prepare(size)

    filler, size = Size(8, 8, 1), Size(100, 20, 2)
    capturing(filler)  # by the runs that warm up
    taken = Sampler(device.poller, capturing, filler).take(size)
    rest_s = taken.run.end_s - taken.run.start_s - sum(taken.elapsed_s)
    assert rest_s < 1.0, "the sensor's ticks around the first request were of a device that idled"
    planted_j = curves.curve().predict(100, 20, 2)[0]
    assert taken.energies_j[0] == pytest.approx(planted_j, rel=0.03)


def test_the_bundled_command_line_knows_its_own_options() -> None:
    run_only = set(command.RUN_ONLY)
    known = {action.dest for action in command.parser()._actions}
    assert run_only < known
