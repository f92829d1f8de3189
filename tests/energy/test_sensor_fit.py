"""The fit against sensors that are known, and what it must refuse to tell."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.energy.power_recording import recording_of
from engine.energy.sensor_fit import fit_sensor, held_out, usable
from tests.energy.power_simulation import recording, wave


def simulated(switches_s, **sensor):
    """(true power, updates) of a simulated recording."""
    found = recording_of(Path("simulated"), recording(switches_s, **sensor))
    updates = usable(found.meter, found.updates("instant"))
    return found.meter.widened(30, 0.1), updates


@cache
def fitted(kind):
    if kind == "boxcar":
        return fit_sensor(*simulated(wave(0.15, 6, dither=0.3), end_s=8))
    return fit_sensor(
        *simulated(wave(0.15, 6, dither=0.3), end_s=8, boxcar_s=0.0, tau_s=0.0123, lag_s=-0.004)
    )


def test_a_boxcar_is_found_by_a_dithered_wave():
    fit = fitted("boxcar")
    assert fit.refusal is None
    assert fit.lag_s == pytest.approx(0.020, abs=4e-4)
    assert fit.kernel.boxcar_s == pytest.approx(0.025, abs=5e-4)
    assert (fit.kernel.tau_s, fit.tau_known, fit.window_known) == (0, False, True)
    assert fit.gain == pytest.approx(0.96, abs=0.003)
    assert fit.offset_w == pytest.approx(-2.0, abs=0.4)
    assert fit.rmse_w < 0.6
    assert fit.lag_range_s[0] <= fit.lag_s <= fit.lag_range_s[1]


def test_a_filter_of_first_order_is_told_from_a_boxcar():
    fit = fitted("first order")
    assert fit.refusal is None
    assert fit.tau_known
    assert fit.lag_s == pytest.approx(-0.004, abs=4e-4)
    assert fit.kernel.tau_s == pytest.approx(0.0123, abs=4e-4)
    assert fit.kernel.boxcar_s == 0
    assert fit.kernel.window_s == pytest.approx(0.0246, abs=8e-4)


def test_both_at_once_are_found():
    switches_s = wave(0.35, 12, dither=0.3)
    fit = fit_sensor(*simulated(switches_s, end_s=14, boxcar_s=0.1, tau_s=0.03, poll_s=0.005))
    assert fit.tau_known
    assert fit.kernel.boxcar_s == pytest.approx(0.1, abs=0.004)
    assert fit.kernel.tau_s == pytest.approx(0.03, abs=0.003)
    assert fit.lag_s == pytest.approx(0.02, abs=0.002)


def test_clocks_that_disagree_are_found_as_lag():
    """A planted error: 15 ms between the two clocks is 15 ms more of lag, and nothing else."""
    trace, updates = simulated(wave(0.15, 6, dither=0.3), end_s=8)
    updates.times_s[:] += 0.015
    fit = fit_sensor(trace, updates)
    assert fit.lag_s == pytest.approx(0.035, abs=4e-4)
    assert fit.kernel.boxcar_s == pytest.approx(fitted("boxcar").kernel.boxcar_s, abs=1e-3)


def test_a_wrong_gain_shows_in_the_residual_of_readings_that_were_not_fitted():
    trace, updates = simulated(wave(0.15, 6, dither=0.3), end_s=8, seed=3)
    fit = fitted("boxcar")
    assert fit.left_of(trace, updates) < 1.5
    updates.readings[:] *= 1.1
    assert fit.left_of(trace, updates) > 8.0


def test_the_later_part_is_held_out():
    trace, updates = simulated(wave(0.15, 6, dither=0.3), end_s=8)
    assert held_out(trace, updates) < 0.8
    later = updates.times_s > 4.5
    updates.readings[later] += 5.0  # what comes later is another sensor
    assert held_out(trace, updates) == pytest.approx(5.0, abs=0.8)


def test_one_edge_leaves_no_part_to_check():
    trace, updates = simulated([5.0, 20.0], end_s=10)
    with pytest.raises(ValueError, match="one part"):
        held_out(trace, updates)


@pytest.mark.parametrize(("cycle_s", "words"), [(0.1043, "104."), (0.05, "50.0")])
def test_a_wave_that_repeats_tells_no_lag(cycle_s, words):
    fit = fit_sensor(*simulated(wave(cycle_s, 8), end_s=10))
    assert f"repeats every {words}" in fit.refusal
    assert fit.inside_rmse_w is not None


def test_a_wave_three_times_as_fast_as_the_sensor_tells_no_lag():
    assert fit_sensor(*simulated(wave(0.0337, 8), end_s=10)).refusal is not None


def test_a_wave_in_step_with_the_sensor_tells_nothing():
    fit = fit_sensor(*simulated(wave(0.1012, 8), end_s=10))
    assert fit.refusal is not None
    fit = fit_sensor(*simulated(wave(0.2024, 8), end_s=10))
    assert "nearly the same residual" in fit.refusal


def test_a_slow_wave_tells_the_lag():
    fit = fit_sensor(*simulated(wave(0.73, 9), end_s=11))
    assert fit.refusal is None
    assert fit.lag_s == pytest.approx(0.02, abs=2e-3)


def test_an_edge_that_no_window_sees_leaves_a_range():
    """25 of every 101 ms are seen: where both edges fall between windows, 50 ms of lags are as good."""
    fit = fit_sensor(*simulated([1.05, 7.02], end_s=13, phase_s=0.09))
    low_s, high_s = fit.lag_range_s
    assert "leave nearly the same residual" in fit.refusal
    assert high_s - low_s > 0.03
    assert low_s <= 0.02 <= high_s


def test_readings_that_do_not_follow_the_load_are_named():
    trace, updates = simulated(wave(0.15, 6, dither=0.3), end_s=8)
    updates.readings[:] = 100 + 20 * np.random.default_rng(0).standard_normal(len(updates.readings))
    fit = fit_sensor(trace, updates)
    assert not fit.explained
    assert "do not follow" in fit.refusal


def test_a_log_upside_down_is_no_sensor():
    trace, updates = simulated(wave(0.73, 9), end_s=11)
    updates.readings[:] = 300 - updates.readings
    assert not fit_sensor(trace, updates).explained


def test_too_few_readings_are_counted():
    trace, updates = simulated(wave(0.73, 9), end_s=11)
    with pytest.raises(ValueError, match="only 11 updates"):
        fit_sensor(trace, updates.part(np.arange(len(updates.times_s)) < 11))


def test_long_recordings_are_thinned_and_found_as_well():
    switches_s = wave(0.0437, 10, dither=0.3)
    sensor = {"period_s": 0.01, "boxcar_s": 0.01, "lag_s": 0.003, "poll_s": 0.002}
    trace, updates = simulated(switches_s, end_s=12, **sensor)
    assert len(updates.times_s) > 1000
    fit = fit_sensor(trace, updates)
    assert fit.refusal is None
    assert fit.lag_s == pytest.approx(0.003, abs=2e-4)
    assert fit.kernel.boxcar_s == pytest.approx(0.01, abs=4e-4)
