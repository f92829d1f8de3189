"""The ledger on simulated devices: what it says while running, and what it settles on."""

import pytest

from engine.energy.account import settle
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.energy.meter import Reading
from engine.energy.power_fit import fit_power
from engine.energy.power_model import Run
from engine.energy.predict import StepPredictor, WarmUp
from engine.energy.simulated import SimulatedProfile
from engine.stop import Policy
from kernels.cost import RowWork
from tests.simulation import DIMS, Device, FakeModel, run, true_j

SLOW = SimulatedProfile(period_s=0.1, lag_s=0.02, window_s=0.025)
FRESH = SimulatedProfile(period_s=0.0, lag_s=0.0, window_s=0.0, resolution_uj=1)


def decode(ledger: Ledger, device: Device, *, steps: int, watts: float, seconds: float) -> None:
    for index in range(steps):
        ledger.begin("decode", [RowWork(1, 20 + index)])
        device.spend(watts, seconds)
        ledger.end([Share(0, "answer", 1)])


def test_a_fresh_meter_gives_every_step_its_true_joules() -> None:
    device = Device(FRESH)
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=3, watts=100, seconds=0.01)
    decode(ledger, device, steps=2, watts=500, seconds=0.02)
    device.spend(90, 0.5)
    report = ledger.finish()
    joules = [energy for energy, _ in report.rows[0].by_forward.values()]
    assert joules == pytest.approx([1.0] * 3 + [10.0] * 2, abs=1e-5)
    assert report.unattributed_j == pytest.approx(45.0, abs=1e-5)
    assert report.phases["answer"].energy_j == pytest.approx(23.0, abs=1e-5)
    assert report.tick_s == 0.0
    assert report.complete


def test_the_account_is_the_meters_own_difference() -> None:
    device = Device(SLOW)
    device.sleep(0.33)
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=60, watts=400, seconds=0.013)
    report = ledger.finish()
    readings = ledger.readings()
    assert report.total_j == pytest.approx((readings[-1].energy_uj - readings[0].energy_uj) * 1e-6, abs=1e-9)
    phases = sum(phase.energy_j for phase in report.phases.values())
    assert phases + report.unattributed_j == pytest.approx(report.total_j, abs=1e-9)
    assert report.tick_s == pytest.approx(0.1, rel=1e-6)
    assert report.complete
    assert report.uncertainty_j is not None
    assert report.uncertainty_j >= 0.05 * report.total_j, "the gain's error is part of it"
    # The readings cover the request: the first is over before it, the last tells of all of it.
    true = true_j(device, ledger.start_s, ledger.end_s)
    assert report.total_j >= true - 1e-6
    assert report.window_j == pytest.approx(true, rel=0.06)


def test_what_is_spent_follows_the_truth_between_ticks() -> None:
    """On a steady load the live figure never strays further than one tick's edge effect."""
    device = Device(SLOW)
    device.sleep(0.3)
    ledger = Ledger(device.poller, prior_w=400.0)
    ledger.start()
    for _ in range(100):
        decode(ledger, device, steps=1, watts=400, seconds=0.007)
        true = true_j(device, ledger.start_s, device.clock())
        edge = 0.1 * (400 - 90) / 4  # interpolating the tick in which the load began
        assert ledger.spent().spent_j == pytest.approx(true, abs=edge + 1.0)
    assert ledger.spent().sd_j is not None


def test_a_meter_that_never_settles_makes_the_account_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(SimulatedProfile(period_s=0.1))
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=30, watts=400, seconds=0.013)
    stuck_uj = device.meter.read().energy_uj
    monkeypatch.setattr(device.meter, "read", lambda: Reading(device.clock(), device.clock(), stuck_uj))
    report = ledger.finish()
    assert not report.complete
    assert report.problem is not None
    assert "no reading came" in report.problem
    assert len(report.rows[0].by_forward) < 30, "steps that no reading covers have no joules"


def test_prediction_is_right_for_steady_steps_and_an_upper_bound_for_jittery_ones() -> None:
    device = Device(FRESH)
    predictor = StepPredictor(DIMS, WarmUp(18, 0.004, 16, 0.008))  # the warm-up saw steps half as long
    ledger = Ledger(device.poller, predictor=predictor, prior_w=300)
    ledger.start()
    for index in range(200):
        decode(ledger, device, steps=1, watts=400, seconds=0.008 * (1.5 if index % 4 == 0 else 1.0))
    expected, upper = ledger.predict([RowWork(1, 220)], 20)
    assert expected == pytest.approx(20 * 400 * 0.009, rel=0.15)
    assert expected < upper < 1.6 * expected


def test_idle_rows_pay_nothing_and_active_rows_share() -> None:
    device = Device(FRESH)
    ledger = Ledger(device.poller)
    ledger.start()
    ledger.begin("decode")
    device.spend(100, 0.1)
    ledger.end([Share(0, "think", 1), Share(1, "answer", 3)])
    ledger.begin("decode")
    device.spend(100, 0.1)
    ledger.end([Share(1, "answer", 1)])
    report = ledger.finish()
    assert report.rows[0].total_j == pytest.approx(2.5, abs=1e-5)
    assert report.rows[1].total_j == pytest.approx(17.5, abs=1e-5)
    assert report.phases["think"].energy_j == pytest.approx(2.5, abs=1e-5)
    assert report.phases["answer"].elapsed_s == pytest.approx(0.175, rel=1e-6)


def test_a_whole_request_on_a_slow_sensor_adds_up_in_its_json() -> None:
    device = Device(SLOW)
    device.sleep(0.3)
    model = FakeModel(
        device, lambda kind, tokens: (0.02, 500.0 if kind == "prefill" else 300.0), answer_tokens=3
    )

    class Sixty(Policy):
        def on_token(self, step):  # type: ignore[no-untyped-def]
            from engine.steps import Stop

            return Stop() if step.index == 60 else None

    _, result = run(device, model, [Sixty()])
    found = result.to_json()
    energy = found["energy"]
    phases = sum(phase["energy_j"] for phase in energy["phases"].values())
    assert phases + energy["unattributed_j"] == pytest.approx(energy["total_j"], abs=1e-6)
    known = [j for j in energy["per_token_j"] if j is not None]
    decode_j = energy["phases"]["think"]["energy_j"] + energy["phases"]["answer"]["energy_j"]
    assert sum(known) == pytest.approx(decode_j, abs=1e-6)
    assert len(energy["per_token_j"]) == found["new_tokens"] == len(found["token_ids"])
    assert found["energy"]["joules_per_token"] == pytest.approx(
        energy["window_j"] / (found["prompt_tokens"] + found["new_tokens"])
    )
    assert found["stop"] == {
        "reason": "policy",
        "policy": "Sixty",
        "forced_answer": True,
        "answer_end": "eos",
        "policies": [{"name": "Sixty", "parameters": {}, "description": ""}],
        "probes": 0,
        "probe_j": 0.0,
        "probes_ridden": 0,
        "probe_mode": "truncate",
    }
    assert found["answer"] == "aaa"
    tokens = sum(found["energy"]["phases"][name]["tokens"] for name in ("think", "answer"))
    assert tokens == found["new_tokens"]
    modelled = [j for j in energy["per_token_model_j"] if j is not None]
    assert len(modelled) == len(known)
    assert modelled == pytest.approx([6.0] * len(modelled), rel=0.02)
    # 300 W for 20 ms each: 6 J a token, whatever the ticks made of it.
    inner = known[10:50]
    assert sum(inner) / len(inner) == pytest.approx(6.0, rel=0.02)


def test_a_window_wider_than_the_period_is_for_the_model_alone() -> None:
    """It smears energy over ticks: interpolation is biased, no interval may hide it; a model knows."""
    device = Device(SimulatedProfile(period_s=0.01, lag_s=0.0, window_s=0.1))
    device.sleep(0.3)
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=10, watts=400, seconds=0.013)
    report = ledger.finish()
    assert report.complete
    assert report.attribution == "model"
    answer = report.phases["answer"]
    assert answer.model_j is not None
    assert answer.model_sd_j is not None
    assert answer.model_j == pytest.approx(52.0, abs=max(3 * answer.model_sd_j, 0.3))
    run = Run(tuple(ledger.readings()), tuple(ledger.marks), ledger.start_s, ledger.end_s)
    plain = settle(run, device.meter.sensor, None, None, by_model=False)
    assert plain.found is not None
    assert plain.phase_sd_uj is None
    assert plain.window_sd_uj is None


def test_a_phase_of_many_spans_has_two_roundings_for_each() -> None:
    """1 mJ resolution, 50 steps with gaps, fresh reads: the phase is off by up to 50 roundings."""
    inside = 0
    for offset in range(40):
        device = Device(SimulatedProfile(period_s=0.0, lag_s=0.0, window_s=0.0, resolution_uj=1000))
        device.sleep(0.0001 * offset)
        ledger = Ledger(device.poller)
        ledger.start()
        for _ in range(50):
            decode(ledger, device, steps=1, watts=1.0, seconds=0.0033)
            device.spend(0.5, 0.0017 + 0.00001 * offset)
        answer = ledger.finish().phases["answer"]
        assert answer.sd_j is not None
        assert answer.energy_j is not None
        inside += abs(answer.energy_j - 50 * 0.0033) <= 1.96 * answer.sd_j
    assert inside >= 36


def test_a_request_on_a_slow_sensor_is_attributed_by_a_model_of_its_own_ticks() -> None:
    device = Device(SLOW)
    device.meter.set_power(90)
    device.sleep(0.33)
    ledger = Ledger(device.poller)
    ledger.start()
    ledger.begin("prefill", [RowWork(500, 500)])
    device.spend(600, 0.15)
    ledger.end([Share(0, "prefill", 500)])
    decode(ledger, device, steps=100, watts=300, seconds=0.012)
    report = ledger.finish()
    assert report.attribution == "model"
    assert report.not_identifiable is None
    prefill, answer = report.phases["prefill"], report.phases["answer"]
    assert prefill.model_j == pytest.approx(90.0, rel=0.05)
    assert answer.model_j == pytest.approx(360.0, rel=0.01)
    assert prefill.ticks is not None and answer.ticks is not None
    assert 1 <= prefill.ticks <= 4 < answer.ticks
    found = report.to_json()
    phases = sum(phase["energy_j"] for phase in found["phases"].values())
    assert phases + found["unattributed_j"] == pytest.approx(found["total_j"], abs=1e-6)
    assert set(found["phases"]["prefill"]) >= {"model_j", "model_sd_j", "ticks", "energy_j", "sd_j"}


def test_a_request_too_short_for_a_model_is_interpolated_without_intervals_and_says_why() -> None:
    device = Device(SLOW)
    device.sleep(0.33)
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=3, watts=300, seconds=0.012)
    report = ledger.finish()
    assert report.attribution == "interpolated"
    assert report.not_identifiable is not None and "ticks are too few" in report.not_identifiable
    assert report.phases["answer"].energy_j is not None
    assert report.phases["answer"].sd_j is None
    assert report.phases["answer"].model_j is None
    assert report.window_uncertainty_j is not None, "the ticks themselves were measured"


def test_the_powers_of_the_device_serve_a_request_that_is_too_short_alone() -> None:
    device = Device(SLOW)
    earlier = []
    for _ in range(6):
        device.meter.set_power(90)
        device.sleep(0.37)
        ledger = Ledger(device.poller)
        ledger.start()
        decode(ledger, device, steps=60, watts=300, seconds=0.012)
        ledger.finish()
        readings = tuple(ledger.readings())
        earlier.append(Run(readings, tuple(ledger.marks), ledger.start_s, ledger.end_s))
    power = fit_power(earlier, device.meter.sensor)
    device.meter.set_power(90)
    device.sleep(0.33)
    ledger = Ledger(device.poller, power=power)
    ledger.start()
    decode(ledger, device, steps=3, watts=300, seconds=0.012)
    report = ledger.finish()
    assert report.attribution == "model"
    assert report.phases["answer"].model_j == pytest.approx(10.8, rel=0.01)


def test_others_on_the_device_are_in_the_report() -> None:
    device = Device(FRESH)
    seen = iter([(12,), (12, 77)])
    device.meter.other_processes = lambda: next(seen)  # type: ignore[attr-defined]
    ledger = Ledger(device.poller)
    ledger.start()
    decode(ledger, device, steps=2, watts=300, seconds=0.01)
    report = ledger.finish()
    assert report.other_processes == (12, 77)
    assert report.to_json()["other_processes"] == [12, 77]
