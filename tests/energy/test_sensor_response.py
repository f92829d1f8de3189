"""The closed forms of what a sensor sees of a step, against sums over a fine raster."""

import numpy as np
import pytest

from engine.energy.meter import Reading, Sensor
from engine.energy.sensor_response import Ticks, blocks, power_seen, updates_of

RASTER_S = 1e-5
STEPS = [(0.31, 0.37), (0.37, 0.3755), (0.376, 0.381), (0.45, 0.452), (0.5, 0.75)]
STARTS_S = np.array([start for start, _ in STEPS])
ENDS_S = np.array([end for _, end in STEPS])


def smoothed(start_s: float, end_s: float, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """(times, power that the sensor averages) of a step of 1 W: the filter by its kernel, then the boxcar."""
    times_s = np.arange(-0.2, 1.4, RASTER_S)
    power = ((times_s >= start_s) & (times_s < end_s)).astype(float)
    if sensor.tau_s:
        kernel = np.exp(-np.arange(0, 12 * sensor.tau_s, RASTER_S) / sensor.tau_s)
        kernel /= kernel.sum()
        power = np.fft.irfft(np.fft.rfft(power, 2**18) * np.fft.rfft(kernel, 2**18), 2**18)[: len(times_s)]
    width = round((sensor.window_s or 0.0) / RASTER_S)
    if width:
        total = np.concatenate([np.zeros(width), np.cumsum(power)])
        power = (total[width:] - total[:-width]) / width
    return times_s + RASTER_S, power


def seconds(ticks: Ticks, sensor: Sensor) -> np.ndarray:
    found = np.zeros((len(ticks.energy_uj), len(STEPS)))
    for block in blocks(ticks, STARTS_S, ENDS_S, sensor):
        found[block.ticks, block.steps] += block.seconds
    return found


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("tau_s", [0.0, 0.012])
@pytest.mark.parametrize("window_s", [0.0, 0.025, 0.13])
def test_each_tick_sees_of_each_step_what_a_raster_sees(sampled, tau_s, window_s):
    sensor = Sensor(period_s=0.1, lag_s=0.017, window_s=window_s, tau_s=tau_s, sampled=sampled)
    times_s = np.arange(0.23, 1.2, 0.1) + 0.003 * np.sin(np.arange(10))
    found = seconds(Ticks(times_s, (1,) * 9), sensor)
    for column, (start_s, end_s) in enumerate(STEPS):
        at_s, power = smoothed(start_s, end_s, sensor)
        if sampled:
            expected = np.interp(times_s[1:] - 0.017, at_s, power) * np.diff(times_s)
        else:
            counted = np.cumsum(power) * RASTER_S
            expected = np.diff(np.interp(times_s - 0.017, at_s, counted))
        # An instant sample of a step without a filter is 0 or 1, whatever the raster makes of its edge.
        assert found[:, column] == pytest.approx(expected, abs=5e-5), (start_s, end_s)
    if not sampled:
        assert found.sum(axis=0) == pytest.approx(ENDS_S - STARTS_S, abs=1e-9)


def test_blocks_of_any_size_say_the_same(monkeypatch):
    sensor = Sensor(period_s=0.1, lag_s=0.017, window_s=0.025, tau_s=0.004)
    ticks = Ticks(np.arange(0.2, 1.3, 0.01), (1,) * 109)
    whole = seconds(ticks, sensor)
    monkeypatch.setattr("engine.energy.sensor_response._CELLS", 1)
    assert seconds(ticks, sensor) == pytest.approx(whole, abs=1e-12)


def test_the_slope_of_what_was_counted_is_the_power_seen():
    sensor = Sensor(period_s=0.1, lag_s=0.017, window_s=0.025, tau_s=0.004)
    times_s = np.arange(0.3, 0.9, 0.013)
    power = np.zeros((len(times_s), len(STEPS)))
    for block in power_seen(times_s, STARTS_S, ENDS_S, sensor):
        power[block.ticks, block.steps] += block.seconds
    near = np.sort(np.concatenate([times_s - 1e-6, times_s + 1e-6]))
    slopes = seconds(Ticks(near, (1,) * (len(near) - 1)), sensor)[::2] / 2e-6
    assert power == pytest.approx(slopes, abs=1e-3)


def test_updates_that_nobody_read_are_put_back_into_a_long_tick():
    sensor = Sensor(period_s=0.1, lag_s=0.0, window_s=0.025, sampled=True)
    updates = updates_of(np.array([0.0, 0.1, 0.4, 0.52]), sensor)
    assert updates.times_s == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.52])
    assert updates.stand_for_s == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.12])
    assert updates.ticks.tolist() == [0, 1, 1, 1, 2]


def test_a_repeated_reading_is_no_tick_and_a_falling_one_is_refused():
    def readings(*energies):
        return [Reading(0.1 * i, 0.1 * i, energy) for i, energy in enumerate(energies)]

    ticks = Ticks.of(readings(5, 5, 9, 9, 9, 12, 12))
    assert ticks.times_s == pytest.approx([0.0, 0.2, 0.5])
    assert ticks.energy_uj == (4, 3)
    with pytest.raises(ValueError, match="fell"):
        Ticks.of(readings(5, 9, 0, 4))
    with pytest.raises(ValueError, match="two readings"):
        Ticks.of(readings(5, 5))
