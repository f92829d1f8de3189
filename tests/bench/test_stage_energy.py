"""Joules of stages and of the step they make up, against a device whose power is known."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import contender, kernels, stage_energy, stages, timing
from bench.kernels import main
from bench.record import Record, read
from bench.repeated import idle
from bench.stage_energy import HEAD, LAYER_STAGES, StageMeter, metering
from bench.stages import Bench
from bench.step_energy import decode_step
from bench.timing import Timed, nothing
from engine.config import load_config
from engine.energy.simulated import SimulatedProfile
from engine.errors import MeterError
from engine.locate import BUNDLED
from kernels.api import load
from tests.simulation import Device

CPU = torch.device("cpu")
PROFILE = SimulatedProfile(idle_w=90.0, period_s=0.01, lag_s=0.002, window_s=0.005)
LAYERS = 5


def meter_of(device: Device) -> StageMeter:
    return StageMeter(device.poller, CPU, idle(device.poller, 1.0, sleep=device.sleep))


def stage_of(device: Device, watts: float, seconds: float, copies: int = 4) -> Bench:
    """A run of `copies` calls."""

    def run() -> None:
        device.spend(watts, seconds * copies)

    return Bench(Timed("x", run, repeats=copies), nothing, "")


def test_a_stages_joules_are_those_of_one_call_gross_and_less_idle() -> None:
    device = Device(PROFILE)
    meter = meter_of(device)
    values = meter.stage(stage_of(device, 390.0, 0.0003), "cpu none", "mlp", 1, 128)
    energy, less = values["energy"], values["energy_less_idle"]
    assert energy.value == pytest.approx(390.0 * 0.0003, rel=0.01)
    assert less.value == pytest.approx(300.0 * 0.0003, rel=0.01)
    assert energy.low is not None and energy.high is not None and energy.value is not None
    assert energy.low < 390.0 * 0.0003 < energy.high
    assert (energy.source, energy.measured) == ("simulated, by repetition", False)


@pytest.mark.parametrize("beside", [0.0, 0.002])
def test_what_the_stages_leave_of_the_step_is_what_runs_beside_them(beside: float) -> None:
    """Four stages of 5 layers and a head at 350 W; the step has `beside` seconds at 200 W of its own."""
    device = Device(PROFILE)
    meter = meter_of(device)
    for stage in (*LAYER_STAGES, HEAD):
        meter.stage(stage_of(device, 350.0, 0.001), "cpu none", stage, 2, 64)

    def step() -> None:
        device.spend(350.0, 0.001 * (4 * LAYERS + 1))
        device.spend(200.0, beside)

    found = meter.reconciled(meter.repeat(step), "cpu none", LAYERS, 2, 64)
    summed, left, share = (found[name].value for name in ("stages_energy", "remainder", "remainder_share"))
    true_j = 0.35 * (4 * LAYERS + 1)
    assert summed == pytest.approx(true_j, rel=0.01)
    assert left == pytest.approx(200.0 * beside, abs=0.02 * true_j)
    assert share == pytest.approx(200.0 * beside / (true_j + 200.0 * beside), abs=0.02)


def test_a_stage_that_was_not_measured_leaves_the_sum_open() -> None:
    device = Device(PROFILE)
    meter = meter_of(device)
    meter.stage(stage_of(device, 350.0, 0.001), "cpu none", "mlp", 1, 64)
    found = meter.reconciled(meter.repeat(lambda: device.spend(350.0, 0.02)), "cpu none", LAYERS, 1, 64)
    assert found["energy"].value == pytest.approx(7.0, rel=0.01)
    assert found["layers_energy"].value is None
    assert found["remainder"].value is None and "no joules" in (found["remainder"].reason or "")


def test_short_calls_are_gathered_so_that_a_device_is_rarely_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, waits = Device(PROFILE), 0

    def wait(self: StageMeter) -> None:
        nonlocal waits
        waits += 1

    meter = meter_of(device)
    monkeypatch.setattr(StageMeter, "_synchronise", wait)
    found = meter.repeat(lambda: device.spend(350.0, 0.0001))
    assert found.calls * 0.0001 == pytest.approx(found.elapsed_s)
    assert waits <= found.elapsed_s / stage_energy.QUEUE_S + 6


def test_a_step_rolls_back_and_chooses_the_same_token_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.model import Model
    from engine.shards import SafetensorsCheckpoint
    from engine.weights import load_weights

    config = load_config(BUNDLED)
    weights = load_weights(SafetensorsCheckpoint(BUNDLED, config), config, dtype=torch.float32, device=CPU)
    model = Model(config, weights, load("torch", CPU))
    lengths: list[list[int]] = []
    real: Callable[..., object] = Model.forward

    def spy(self: Model, tokens: object, layout: object, cache: object) -> object:
        lengths.append([row.length for row in layout.rows])  # type: ignore[attr-defined]
        return real(self, tokens, layout, cache)

    monkeypatch.setattr(Model, "forward", spy)
    for context in (1, 20):
        step = decode_step(model, 3, context)
        for _ in range(4):
            step()
    assert lengths == [[1, 1, 1]] * 4 + [[20, 20, 20]] * 4


def test_an_estimate_is_refused_where_a_measurement_is_required() -> None:
    with pytest.raises(MeterError, match="is not one"), metering("estimate", CPU, measured=True):
        pass


def test_kernels_prints_joules_of_every_stage_and_reconciles_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    monkeypatch.setattr(stages, "last_level_cache", lambda device: 200_000)
    monkeypatch.setattr(kernels, "PRODUCT", 64)
    monkeypatch.setattr(contender, "cores", lambda: 1)
    monkeypatch.setattr(stage_energy, "SECONDS", 0.02)
    monkeypatch.setattr(stage_energy, "IDLE_SECONDS", 0.02)
    out = tmp_path / "records.jsonl"
    small = [
        "--rounds",
        "2",
        "--rows",
        "1",
        "--contexts",
        "8,24",
        "--reader-megabytes",
        "1",
        "--backend",
        "torch",
    ]
    assert main([*small, "--energy", "--energy-source", "estimate", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    records = [r for r in read([out]) if r.benchmark == "kernels"]
    assert all((r.derived["energy"].value or 0) > 0 for r in records)
    assert all(r.derived["energy"].measured is False for r in records)
    steps = {r.case.context: r for r in records if r.case.phase == "step"}
    config = load_config(BUNDLED)
    assert set(steps) == {8, 24}
    for context, step in steps.items():
        assert step.case.shape == (config.n_layers,)
        own = {r.case.phase: _joules(r) for r in records if _belongs(r, context)}
        summed = config.n_layers * sum(own[stage] for stage in LAYER_STAGES) + own[HEAD]
        assert step.derived["stages_energy"].value == pytest.approx(summed)
        whole = config.n_layers * own["layers"] + own[HEAD]
        assert step.derived["layers_energy"].value == pytest.approx(whole)
        assert step.derived["remainder"].value == pytest.approx(_joules(step) - summed)
    assert (
        "| Whole decode step | mJ | sum of stages | left | of the step | layers in one call, and head |"
        in printed
    )
    assert "| of roofline | mJ | less idle |" in printed and "(estimate)" in printed
    assert json.loads(printed.splitlines()[-1])["skipped"] == {}


def _joules(record: Record) -> float:
    value = record.derived["energy"].value
    assert value is not None
    return value


def _belongs(record: Record, context: int) -> bool:
    return record.case.context == (context if record.case.phase in ("attention", "layers") else 8)


def test_without_energy_its_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--require-measured"]) == 2
    assert "need --energy" in capsys.readouterr().err
