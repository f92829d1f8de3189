"""From the requests behind a curve to the powers of their work, from those to a request's prefill."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.curve_power import power_of, power_table
from bench.curve_requests import Sampler, Size, Taken
from engine.decode import Decoder
from engine.energy.curve_json import from_json, to_json
from engine.energy.ledger import Ledger
from engine.energy.power_model import PowerModel
from engine.rows import Request
from tests import curves
from tests.curves import DECODE_W, IDLE_W, PREFILL_W, PricedModel, preparing, simulated_device
from tests.simulation import TOKENIZER, Device


@pytest.fixture(scope="module")
def pooled() -> tuple[Device, PricedModel, list[Taken]]:
    """Thirty sizes on a sensor of 100 ms ticks, a window of 25 ms and a lag of 20."""
    device, rng = simulated_device(period_s=0.1), np.random.default_rng(3)
    model = PricedModel(device, rng, noise=0.01)
    sampler = Sampler(device.poller, preparing(device, model), Size(8, 8, 1))
    return device, model, [sampler.take(curves.random_size(rng, prompt=1500, new=60)) for _ in range(30)]


def powers(device: Device, taken: list[Taken]) -> PowerModel:
    power, remark = power_of([one.run for one in taken], device.meter.sensor, fresh=False)
    assert power is not None, remark
    return power


def test_the_runs_of_a_curve_tell_what_each_kind_of_work_draws(pooled) -> None:
    device, _, taken = pooled
    power = powers(device, taken)
    said = dict(zip(power.features, power.theta, strict=True))
    assert said["idle"] == pytest.approx(IDLE_W, rel=0.1)
    assert said["prefill.const"] == pytest.approx(PREFILL_W, rel=0.03)
    assert said["decode.const"] == pytest.approx(DECODE_W, rel=0.02)
    assert "prefill.const" in power_table(power)
    curve = replace(curves.curve(), power=power)
    assert from_json(json.loads(json.dumps(to_json(curve)))) == curve


@pytest.mark.parametrize("prompt", [600, 1200])
def test_with_those_powers_one_request_tells_its_prefill(pooled, prompt: int) -> None:
    """A prefill of less than a tick between an idle device and its decode, which interpolation misses."""
    device, model, taken = pooled
    device.spend(IDLE_W, 0.63)
    ledger = Ledger(device.poller, power=powers(device, taken))
    ledger.start()
    before_s = device.clock()
    model.factor = 1.0
    decoder = Decoder(model, TOKENIZER, [Request((7,) * prompt, 8)], ledger)  # type: ignore[arg-type]
    assert sum(1 for _ in decoder.steps()) == 8 and device.clock() > before_s
    prefill = ledger.marks[0]
    device.meter.enter("idle")
    report = ledger.finish()
    assert report.attribution == "model" and report.not_identifiable is None
    truth_j = PREFILL_W * (prefill.end_s - prefill.start_s)
    found = report.phases["prefill"]
    assert found.model_j == pytest.approx(truth_j, rel=0.05)
    total_j = sum(phase.energy_j or 0.0 for phase in report.phases.values()) + (report.unattributed_j or 0.0)
    assert total_j == pytest.approx(report.total_j, abs=1e-9)


def test_what_cannot_be_told_is_said(pooled) -> None:
    device, _, taken = pooled
    runs = [one.run for one in taken]
    assert "by itself" in power_of(runs, device.meter.sensor, fresh=True)[1]
    unknown = replace(device.meter.sensor, lag_s=None)
    assert power_of(runs, unknown, fresh=False) == (None, power_of(runs, unknown, fresh=False)[1])
    assert "bench.sensor" in power_of(runs, unknown, fresh=False)[1]
    short = replace(runs[0], readings=runs[0].readings[:3])
    assert "too few" in power_of([short], device.meter.sensor, fresh=False)[1]
