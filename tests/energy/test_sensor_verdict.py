"""What the verdict on a fit is made of."""

import numpy as np
import pytest

from engine.energy.power_trace import PowerTrace
from engine.energy.sensor_updates import Updates
from engine.energy.sensor_verdict import allowed_s, ambiguous, inside_wave, nearly, switches

UPDATES = Updates(np.arange(0.0, 10.0, 0.1), np.arange(100.0), 0.1, 0.013, 1.0, 0.01)
SWITCHES_S = np.array([1.0, 2.5, 2.6, 4.0, 4.05, 8.0])


def test_switches_of_marks_are_the_marks():
    assert switches(PowerTrace.from_marks(SWITCHES_S)) == pytest.approx(SWITCHES_S)


def test_switches_of_a_noisy_meter_with_spikes_are_those_of_the_load():
    times_s = np.arange(0, 10, 2e-4)
    on = np.searchsorted(SWITCHES_S, times_s, side="right") % 2
    power_w = 65 + 130 * on + 3 * np.random.default_rng(0).standard_normal(len(times_s))
    power_w[[10_000, 30_000]] = 190.0, 70.0  # single samples
    found_s = switches(PowerTrace.from_samples(times_s, power_w))
    assert found_s == pytest.approx(SWITCHES_S, abs=0.004)


def test_a_power_that_does_not_change_has_no_switches():
    assert len(switches(PowerTrace(np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.0])))) == 0


def test_inside_a_wave_are_readings_that_no_lag_takes_out_of_it():
    switches_s = np.arange(2.0, 8.0, 0.05)
    inside = inside_wave(switches_s, UPDATES, np.array([-0.05, 0.2]), 0.1)
    assert inside.times_s[0] == pytest.approx(2.4)
    assert inside.times_s[-1] == pytest.approx(7.8)
    assert inside_wave(switches_s[:7], UPDATES, np.array([0.0]), 0.1) is None
    assert inside_wave(switches_s[:20], UPDATES, np.array([-0.05, 0.2]), 0.1) is None


def test_nearly_is_a_tenth_and_more_for_few_readings():
    assert nearly(10_000) == 1.1
    assert nearly(14) == pytest.approx((1 + 16 / 9) ** 0.5)
    assert nearly(3) > 4


def test_lags_may_differ_by_a_quarter_of_a_period_or_a_poll():
    assert allowed_s(UPDATES) == 0.025
    assert ambiguous(UPDATES, (0.0, 0.025), 1.0) is None
    assert "from 0 to 26 ms" in ambiguous(UPDATES, (0.0, 0.026), 1.0)
    slow = Updates(UPDATES.times_s, UPDATES.readings, 0.1, 0.04, 1.0, 0.01)
    assert allowed_s(slow) == 0.04
