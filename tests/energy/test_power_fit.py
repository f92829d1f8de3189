"""Powers found again from pooled requests, merged where nothing tells them apart, refused by name."""

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.energy.attribution import Share, StepMark
from engine.energy.meter import Reading, Sensor
from engine.energy.model_attribution import attribute_by_model
from engine.energy.power_estimate import nonnegative
from engine.energy.power_fit import fit_power
from engine.energy.power_model import Noise, NotIdentifiable, PowerModel, Run
from engine.energy.simulated import SimulatedProfile
from tests.energy.power_runs import PowerWorld


@pytest.fixture(scope="module")
def pooled() -> tuple[PowerWorld, PowerModel]:
    world = PowerWorld()
    return world, fit_power(
        [world.run()[0] for _ in range(16)], world.sensor, provenance={"device": "simulated"}
    )


def test_powers_are_found_again(pooled):
    world, power = pooled
    assert power.features == ("idle", "prefill.const", "prefill.tokens", "decode.const", "decode.length")
    truth = (world.idle_w, *world.prefill_w, *world.decode_w)
    deviations = np.sqrt(np.diag(power.covariance))
    for name, found, true, sd in zip(power.features, power.theta, truth, deviations, strict=True):
        assert abs(found - true) <= 4 * sd + 1e-3 * true, name
    at_600 = power.theta[1] + 600 * power.theta[2]
    assert at_600 == pytest.approx(510, rel=0.01)
    assert power.runs == 16
    assert 0.5 < power.residual_scale < 1.2, "rounding to 1 mJ is all that scatters here"
    assert power.doubts == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"theta": (1.0,)}, "5 features"), ({"theta": (-1.0, 1.0, 1.0, 1.0, 1.0)}, "negative")],
)
def test_a_model_that_makes_no_sense_is_refused(pooled, change, message):
    with pytest.raises(ValueError, match=message):
        replace(pooled[1], **change)


def test_one_prompt_length_merges_the_slope_into_the_constant():
    world = PowerWorld()
    power = fit_power([world.run(prompt=512)[0] for _ in range(6)], world.sensor)
    assert power.features == ("idle", "prefill.const", "decode.const", "decode.length")
    assert power.seen["prefill.tokens"] == (512.0, 512.0)
    assert power.theta[1] == pytest.approx(450 + 0.1 * 512, rel=0.02)
    with pytest.raises(NotIdentifiable, match=r"prefill tokens of 512 to 512 only, not 300"):
        attribute_by_model(world.run(prompt=300)[0], world.sensor, power)


def test_a_wrong_sensor_is_doubted(pooled):
    world, _ = pooled
    runs = [world.run()[0] for _ in range(16)]
    late = fit_power(runs, replace(world.sensor, lag_s=0.035))
    assert any("as if its lag" in doubt or "window" in doubt for doubt in late.doubts), late.doubts
    assert late.residual_scale < 2, "the misfit went into the noise: only the doubt tells"


def test_too_few_ticks_are_refused(pooled):
    world, _ = pooled
    run, _ = world.run(tokens=3)
    short = replace(run, readings=run.readings[:4])
    with pytest.raises(NotIdentifiable, match="3 ticks are too few to tell 3 powers"):
        fit_power([short], world.sensor)
    with pytest.raises(NotIdentifiable, match="1 tick is too few"):
        fit_power([replace(run, readings=run.readings[:2])], world.sensor)


def test_an_unknown_lag_is_refused(pooled):
    world, _ = pooled
    with pytest.raises(NotIdentifiable, match="lag and window are not known"):
        fit_power([world.run()[0]], replace(world.sensor, lag_s=None))


def locked(step_s: float, *, sampled: bool, offset_s: float = 0.0) -> tuple[Run, Sensor]:
    """A load of 50 % in step with 100 ms ticks, recorded from its middle: no idle device is seen."""
    sensor = Sensor(period_s=0.1, lag_s=0.0, window_s=0.025, sampled=sampled, gain_error=0.05)
    starts = [i * 2 * step_s for i in range(round(4 / (2 * step_s)))]
    share = (Share(0, "answer", 1),)
    marks = tuple(StepMark("decode", start, start + step_s, share) for start in starts)
    rng = np.random.default_rng(0)
    energies = np.cumsum(rng.normal(20e6, 2e4, 30)).astype(int)
    readings = tuple(
        Reading(t, t, int(e)) for t, e in zip(0.5 + offset_s + 0.1 * np.arange(30), energies, strict=True)
    )
    return Run(readings, marks, 0.0, 4.0), sensor


def test_steps_in_step_with_the_ticks_are_refused_by_name():
    run, sensor = locked(0.05, sampled=False)
    with pytest.raises(NotIdentifiable, match="steps and ticks are in step"):
        fit_power([run], sensor)


def test_a_phase_between_the_windows_of_a_sampling_sensor_is_refused():
    run, sensor = locked(0.05, sampled=True, offset_s=0.09)
    with pytest.raises(NotIdentifiable, match="no tick saw anything of decode"):
        fit_power([run], sensor)


def test_a_run_without_steps_and_overlapping_steps_are_wrong(pooled):
    world, _ = pooled
    run, _ = world.run()
    with pytest.raises(ValueError, match="no step"):
        fit_power([replace(run, marks=())], world.sensor)
    twice = (run.marks[0], *run.marks)
    with pytest.raises(ValueError, match="overlap"):
        fit_power([replace(run, marks=twice)], world.sensor)


def test_requests_that_drift_widen_the_intervals():
    steady, drifting = PowerWorld(), PowerWorld()
    runs = []
    for _ in range(16):
        factor = drifting.rng.gauss(1.0, 0.03)
        drifting.decode_w = (280.0 * factor, 0.04 * factor)
        drifting.prefill_w = (450.0 * factor, 0.1 * factor)
        runs.append(drifting.run()[0])
    wide = fit_power(runs, drifting.sensor)
    narrow = fit_power([steady.run()[0] for _ in range(16)], steady.sensor)
    assert 0.01 < wide.noise.drift < 0.06
    assert narrow.noise.drift < 0.002
    level = np.array([0.0, 0.0, 0.0, 1.0, 600.0])
    sd_w = [math.sqrt(level @ np.array(model.covariance) @ level) for model in (wide, narrow)]
    assert sd_w[0] > 5 * sd_w[1]
    assert sd_w[0] == pytest.approx(0.03 * 304 / 4, rel=0.6)


def test_nonnegative_least_squares_finds_the_best_corner():
    rng = np.random.default_rng(1)
    for _ in range(50):
        design = rng.normal(size=(12, 4))
        normal, right = design.T @ design, design.T @ rng.normal(size=12)
        found = nonnegative(normal, right, 3)
        assert (found[:3] >= 0).all()
        slope = right - normal @ found
        assert (slope[:3] <= 1e-9).all()
        assert np.abs(slope[3]) < 1e-9
        assert np.abs(found[:3] * slope[:3]).max() < 1e-9


def test_a_model_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="2 features"):
        PowerModel(("idle", "a.const"), (1.0,), ((1.0,),), {}, Noise(), 1.0, 10, 1)


def test_a_sampling_sensor_needs_many_requests_and_then_is_right():
    """25 ms of every 100: the prefill is seen now and then only. The meter samples by itself here."""
    world = PowerWorld(SimulatedProfile(period_s=0.025, window_s=0.0, lag_s=0.02, resolution_uj=1))
    runs = [sampled(world.run()[0]) for _ in range(16)]
    sensor = replace(world.sensor, period_s=0.1, window_s=0.025, sampled=True)
    power = fit_power(runs, sensor)
    assert power.theta[1] + 600 * power.theta[2] == pytest.approx(510, rel=0.03)
    assert power.theta[3] + 600 * power.theta[4] == pytest.approx(304, rel=0.02)


def sampled(run: Run) -> Run:
    """Every fourth tick of 25 ms, standing for all four."""
    ticks = [
        (b.time_s, b.energy_uj - a.energy_uj) for a, b in zip(run.readings, run.readings[1:], strict=False)
    ]
    energy_uj, readings = 0, []
    for time_s, rise_uj in ticks[::4]:
        energy_uj += 4 * rise_uj
        readings.append(Reading(time_s, time_s, energy_uj))
    return replace(run, readings=tuple(readings))
