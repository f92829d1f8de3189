"""Update times and period from polled logs whose updates are known."""

import numpy as np
import pytest

from engine.energy.sensor_updates import find_updates, per_update

FIRST_S = 0.0037


def log(period_s, poll_s, *, seconds=20.0, seed=0, jitter_s=0.0, steady=0.0):
    """(poll times, readings, update times); `steady`: the share of updates that change nothing."""
    rng = np.random.default_rng(seed)
    updates_s = np.arange(FIRST_S, seconds, period_s)
    updates_s = updates_s + rng.uniform(-jitter_s, jitter_s, len(updates_s))
    values = np.round(rng.normal(100, 5, len(updates_s)), 2)
    for index in np.flatnonzero(rng.random(len(values)) < steady):
        values[index] = values[index - 1] if index else values[index]
    polls_s = np.cumsum(poll_s * rng.uniform(0.95, 1.15, int(seconds / poll_s)))
    polls_s = polls_s[(polls_s > updates_s[0]) & (polls_s < seconds)]
    return polls_s, values[np.searchsorted(updates_s, polls_s, side="right") - 1], updates_s


@pytest.mark.parametrize(
    ("period_s", "poll_s"),
    [(0.01, 0.001), (0.02, 0.007), (0.0993, 0.013), (0.10122, 0.013), (0.1, 0.0065), (0.1, 0.03)],
)
@pytest.mark.parametrize("steady", [0.0, 0.4])
def test_period_and_times_are_sharper_than_the_polls(period_s, poll_s, steady):
    polls_s, readings, updates_s = log(period_s, poll_s, steady=steady)
    found = find_updates(polls_s, readings)
    assert found.period_s == pytest.approx(period_s, rel=1e-4)
    nearest_s = updates_s[np.abs(found.times_s[:, None] - updates_s).argmin(axis=1)]
    assert np.abs(found.times_s - nearest_s).max() < poll_s / 15
    assert found.regular > 0.99
    assert found.poll_s == pytest.approx(poll_s, rel=0.1)
    # Updates that changed nothing are there, with the reading that stood.
    assert np.diff(found.times_s) == pytest.approx(period_s, rel=0.05)
    expected = readings[np.searchsorted(polls_s, found.times_s + 1.2 * poll_s, side="right") - 1]
    assert found.readings[:-1] == pytest.approx(expected[:-1])


def test_an_irregular_sensor_stays_inside_what_was_seen():
    polls_s, readings, updates_s = log(0.1, 0.005, jitter_s=0.02)
    found = find_updates(polls_s, readings)
    nearest_s = updates_s[np.abs(found.times_s[:, None] - updates_s).argmin(axis=1)]
    assert np.abs(found.times_s - nearest_s).max() < 0.006
    assert found.regular < 0.5
    assert found.period_s == pytest.approx(0.1, rel=2e-3)


def test_a_poll_that_comes_late_moves_nothing():
    polls_s, readings, _ = log(0.1, 0.007)
    late = (polls_s > 7.0) & (polls_s < 7.06)
    whole, holed = find_updates(polls_s, readings), find_updates(polls_s[~late], readings[~late])
    assert holed.period_s == pytest.approx(whole.period_s, rel=1e-5)
    assert np.abs(holed.times_s - whole.times_s).max() < 5e-4


@pytest.mark.parametrize("period_s", [0.001, 0.01, 0.02])
def test_polls_too_slow_for_the_sensor_are_named(period_s):
    polls_s, readings, _ = log(period_s, 0.013)
    with pytest.raises(ValueError, match=r"polled every 13.* ms"):
        find_updates(polls_s, readings)


@pytest.mark.parametrize("changes", [0, 1, 7])
def test_too_few_changes_are_counted(changes):
    polls_s = np.arange(0.0, 2.0, 0.01)
    readings = np.minimum(polls_s // 0.1, changes)
    with pytest.raises(ValueError, match=f"changes {changes} times"):
        find_updates(polls_s, readings)


def test_a_counter_gives_the_mean_power_of_each_update():
    polls_s = np.arange(0.0, 10.0, 0.001)
    energy_j = np.floor(polls_s / 0.1) * 0.1 * np.where(polls_s < 5, 200.0, 0.0)
    energy_j += np.where(polls_s >= 5, 1000 + (np.floor(polls_s / 0.1) - 50) * 0.1 * 60.0, 0.0)
    power = per_update(find_updates(polls_s, energy_j))
    assert power.readings[power.times_s < 4.99] == pytest.approx(200.0, rel=0.02)
    assert power.readings[power.times_s > 5.15] == pytest.approx(60.0, rel=0.02)
    assert len(power.readings) == len(power.times_s)
