"""Joules of load and idle phases whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from engine.energy.phase_energy import PhaseEnergy, by_model, by_trace, naive
from engine.energy.power_recording import recording_of
from engine.energy.power_trace import PowerTrace
from engine.energy.sensor_model import SensorModel
from tests.energy.power_simulation import recording, wave

SENSOR = SensorModel(0.1012, 0.02, 0.025, gain=0.96, offset_w=-2.0)


def simulated(switches_s, **sensor):
    return recording_of(Path("simulated"), recording(switches_s, **sensor))


def test_the_truth_is_power_by_time():
    found = simulated([1.0, 3.0, 4.5, 5.0, 7.0], end_s=9)
    truth = by_trace(found.meter, found.marks_s)
    assert truth.load_j == pytest.approx(195 * 2.5, rel=1e-3)
    assert truth.idle_j == pytest.approx(65 * 3.5, rel=1e-3)


@pytest.mark.parametrize("cycle_s", [0.1043, 0.15, 0.9])
def test_the_model_finds_what_the_naive_account_does_not(cycle_s):
    found = simulated(wave(cycle_s, 9, dither=0.1), end_s=12, tau_s=0.0)
    truth = by_trace(found.meter, found.marks_s)
    load, idle = by_model(SENSOR, found.updates("instant"), found.marks_s).errors(truth)
    assert (load, idle) == pytest.approx((0, 0), abs=0.02)
    load, idle = naive(*found.channels["instant"], found.marks_s).errors(truth)
    if cycle_s < 0.2:
        assert load < -0.2
        assert idle > 0.2


def test_a_wrong_lag_gives_wrong_joules():
    found = simulated(wave(0.15, 9, dither=0.1), end_s=12)
    truth = by_trace(found.meter, found.marks_s)
    wrong = SensorModel(0.1012, 0.05, 0.025, gain=0.96, offset_w=-2.0)
    load, idle = by_model(wrong, found.updates("instant"), found.marks_s).errors(truth)
    assert load < -0.05
    assert idle > 0.1


def test_a_naive_account_of_long_phases_errs_by_gain_and_delay():
    """4 % of gain; readings show the load 32 ms late on average and stand for 101 ms: idle gets what
    load loses. Where in a period the edges fall moves that by half a period.
    """
    found = simulated([1.0, 6.0, 12.0], end_s=14, offset_w=0.0)
    truth = by_trace(found.meter, found.marks_s)
    late_j = (0.032 + 0.101 / 2) * 0.96 * 130
    load, idle = naive(*found.channels["draw"], found.marks_s).errors(truth)
    assert load == pytest.approx(-0.04 - late_j / (195 * 5), abs=0.008)
    assert idle == pytest.approx(-0.04 + late_j / (65 * 6), abs=0.02)


def test_readings_that_all_see_the_same_are_refused():
    found = simulated(wave(0.1012, 9), end_s=12)
    updates = found.updates("instant")
    inside = updates.part((updates.times_s > 2) & (updates.times_s < 9))
    with pytest.raises(ValueError, match="same share"):
        by_model(SENSOR, inside, found.marks_s)


def test_without_an_idle_phase_there_is_no_idle_energy():
    found = simulated([1.0, 3.0], end_s=6)
    truth = by_trace(found.meter, found.marks_s)
    assert truth.idle_j is None
    account = by_model(SENSOR, found.updates("instant"), found.marks_s)
    assert account.load_j == pytest.approx(390, rel=0.02)
    assert account.errors(truth)[1] is None


def test_no_power_is_negative():
    """Readings below the offset would make idle negative: the other phase is fitted alone instead."""
    found = simulated([1.0, 6.0, 12.0], end_s=14, idle_w=1.0, offset_w=-40.0, noise_w=0.05)
    updates = found.updates("instant")
    account = by_model(SensorModel(0.1012, 0.02, 0.025, gain=0.96, offset_w=0.0), updates, found.marks_s)
    assert account.idle_j == 0
    assert account.load_j == pytest.approx((195 - 40 / 0.96) * 5, rel=0.02)


def test_an_error_of_nothing_is_unknown():
    assert PhaseEnergy(1.0, 2.0).errors(PhaseEnergy(0.0, 4.0)) == (None, -0.5)


def test_the_trace_holds_its_last_value_beyond_its_end():
    trace = PowerTrace(np.array([0.0, 1.0]), np.array([10.0]))
    assert by_trace(trace, np.array([0.0, 2.0])).load_j == pytest.approx(20)
