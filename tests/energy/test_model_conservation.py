"""Attribution by the power model adds up to the counter, µJ by µJ, on random traces; a fall is refused."""

import math

import numpy as np
import pytest

from engine.energy.attribution import Share, StepMark, attribute
from engine.energy.meter import Reading, Sensor
from engine.energy.model_attribution import attribute_by_model
from engine.energy.power_fit import fit_power
from engine.energy.power_model import Noise, PowerModel, Run
from engine.energy.report import by_phase, by_row
from kernels.cost import RowWork

POWER = PowerModel(
    features=("idle", "prefill.const", "prefill.tokens", "decode.const", "decode.length"),
    theta=(80.0, 500.0, 0.02, 300.0, 0.01),
    covariance=tuple(tuple(float(i == j) for j in range(5)) for i in range(5)),
    seen={"prefill.tokens": (1.0, 4000.0), "decode.length": (1.0, 9000.0)},
    noise=Noise(jitter_s=5e-4, white_w=1.0, drift=0.01),
    residual_scale=1.0,
    ticks=500,
    runs=16,
)


def sensor_of(rng: np.random.Generator) -> Sensor:
    return Sensor(
        period_s=0.1,
        lag_s=float(rng.uniform(0, 0.05)),
        window_s=float(rng.choice([0.0, 0.01, 0.025])),
        tau_s=float(rng.choice([0.0, 0.02])),
        sampled=bool(rng.random() < 0.3),
        resolution_uj=1000,
        gain_error=0.05,
    )


def trace(rng: np.random.Generator) -> Run:
    """Readings that rise by anything or not at all, and steps anywhere among and beyond them."""
    count = int(rng.integers(1, 12))
    times_s = 1000 + np.concatenate([[0.0], np.cumsum(rng.uniform(0.005, 0.2, count))])
    rises_uj = rng.integers(0, 80_000, count) * 1000 * (rng.random(count) > 0.1)
    energies_uj = int(rng.integers(10**15)) + np.concatenate([[0], np.cumsum(rises_uj)])
    readings = [
        Reading(time, time + 1e-4, uj)
        for time, uj in zip(times_s.tolist(), energies_uj.tolist(), strict=True)
    ]
    span_s = times_s[-1] - times_s[0]
    edges = np.sort(times_s[0] + rng.uniform(-0.1, 1.1, 2 * int(rng.integers(1, 12))) * span_s).tolist()
    prompt = int(rng.integers(1, 4000))
    marks = [
        StepMark("prefill", edges[0], edges[1], (Share(0, "prefill", prompt),), (RowWork(prompt, prompt),))
    ]
    for token, (start, stop) in enumerate(zip(edges[2::2], edges[3::2], strict=True), 1):
        rows = 1 + token % 3
        marks.append(
            StepMark(
                "decode",
                start,
                stop,
                tuple(Share(row, ("think", "answer")[row % 2], 1) for row in range(rows)),
                tuple(RowWork(1, prompt + token + 7 * row) for row in range(rows)),
            )
        )
    return Run(tuple(readings), tuple(marks), edges[0], edges[-1])


def check(run: Run, sensor: Sensor) -> None:
    found = attribute_by_model(run, sensor, POWER)
    total_uj = run.readings[-1].energy_uj - run.readings[0].energy_uj
    assert found.total_uj == total_uj
    assert sum(found.steps_uj) + found.unattributed_uj == total_uj
    assert min(found.steps_uj) >= 0 and found.unattributed_uj >= 0
    assert all(type(step) is int for step in found.steps_uj)
    assert 0 <= sum(found.steps_uj) <= found.window_uj <= total_uj
    assert found.model_uj is not None and found.model_sd_uj is not None
    assert min(found.model_uj) >= 0
    assert all(math.isfinite(sd) and sd >= 0 for sd in (*found.step_sd_uj, *found.model_sd_uj))
    phases = by_phase(run.marks, found, {}, None)
    rows = by_row(run.marks, found, with_sd=False)
    attributed = sum(found.steps_uj)
    assert sum(round((phase.energy_j or 0.0) * 1e6) for phase in phases.values()) == attributed
    assert sum(round(row.total_j * 1e6) for row in rows.values()) == attributed


@pytest.mark.parametrize(("seed", "count"), [(0, 1_500), pytest.param(1, 10_000, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_is_negative_whatever_the_trace(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        check(trace(rng), sensor_of(rng))


def test_the_check_finds_a_lost_microjoule(monkeypatch):
    rng = np.random.default_rng(2)
    run, sensor = trace(rng), sensor_of(rng)
    right = attribute_by_model(run, sensor, POWER)

    def planted(*_given):
        from dataclasses import replace

        return replace(right, steps_uj=(right.steps_uj[0] + 1, *right.steps_uj[1:]))

    monkeypatch.setattr(f"{__name__}.attribute_by_model", planted)
    with pytest.raises(AssertionError):
        check(run, sensor)


@pytest.mark.parametrize("falls_to", ["zero", "a little less", "the start of a wrapped register"])
def test_a_counter_that_falls_is_refused_by_every_way_of_attributing(falls_to):
    """A reset or a wrap inside a request has lost energy that nobody can count: no figure, none negative."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        run, sensor = trace(rng), sensor_of(rng)
        at = int(rng.integers(1, len(run.readings)))
        before_uj = run.readings[at - 1].energy_uj
        lower_uj = {"zero": 0, "a little less": before_uj - 1000}.get(falls_to, before_uj % 2**32)
        fallen = tuple(
            reading if index < at else Reading(reading.before_s, reading.after_s, lower_uj)
            for index, reading in enumerate(run.readings)
        )
        broken = Run(fallen, run.marks, run.start_s, run.end_s)
        with pytest.raises(ValueError, match="fell"):
            attribute_by_model(broken, sensor, POWER)
        with pytest.raises(ValueError, match="fell"):
            fit_power([run, broken], sensor)
        with pytest.raises(ValueError, match="fell"):
            attribute(broken.readings, broken.marks, sensor, start_s=broken.start_s, end_s=broken.end_s)


def test_a_reading_logged_twice_changes_nothing_that_adds_up():
    rng = np.random.default_rng(4)
    for _ in range(100):
        run, sensor = trace(rng), sensor_of(rng)
        at = int(rng.integers(len(run.readings)))
        original = run.readings[at]
        again = Reading(original.before_s + 0.001, original.after_s + 0.001, original.energy_uj)
        twice = (*run.readings[: at + 1], again, *run.readings[at + 1 :])
        check(Run(twice, run.marks, run.start_s, run.end_s), sensor)
