"""The study's device and counter against closed forms and against small steps in time."""

import math
from itertools import pairwise

import numpy as np
import pytest

from bench.attribution.simulated_sensor import Counter, log
from bench.attribution.true_power import TruePower, from_steps

SPANS = [(1.0, 1.0617), (1.0619, 1.0672), (1.0674, 1.0723), (1.3, 1.42)]
WATTS = [600.0, 350.0, 360.0, 420.0]


def device(tau_s=0.0, **more):
    return from_steps(SPANS, WATTS, idle_w=90.0, begin_s=0.0, end_s=3.0, tau_s=tau_s, **more)


def constant(watts=123.0):
    return TruePower(np.array([0.0, 5.0]), np.array([watts]), tau_s=0.02)


def still(**values):
    return Counter(**{"period_s": 0.1, "lag_s": 0.02, "window_s": 0.025, "resolution_uj": 1, **values})


def test_constant_power_is_seen_as_it_is_through_any_sensor():
    for sampling in (False, True):
        readings = log(still(sampling=sampling), constant(), 0.0, np.random.default_rng(0))
        rises = np.diff([reading.energy_uj for reading in readings])
        assert rises == pytest.approx(12_300_000, abs=1)


def test_a_step_s_energy_is_its_power_times_its_time():
    power = device(tau_s=0.03)
    for (start, stop), watts in zip(SPANS, WATTS, strict=True):
        assert power.between_j(start, stop) == pytest.approx(watts * (stop - start), rel=1e-9)
    busy_s = sum(stop - start for start, stop in SPANS)
    expected_j = 90 * (3 - busy_s) + sum(w * (b - a) for (a, b), w in zip(SPANS, WATTS, strict=True))
    assert power.energy_j(3.0) == pytest.approx(expected_j, rel=1e-12)


def test_a_pulse_through_a_filter_rises_and_falls_by_the_time_constant():
    power = TruePower(np.array([0.0, 1.0, 1.1, 4.0]), np.array([50.0, 250.0, 50.0]), tau_s=0.04)
    inside_w = 50 + 200 * (1 - math.exp(-0.07 / 0.04))
    after_w = 50 + 200 * (1 - math.exp(-0.1 / 0.04)) * math.exp(-0.05 / 0.04)
    narrow_s = 1e-7
    for at_s, expected_w in ((0.9, 50.0), (1.07, inside_w), (1.15, after_w)):
        assert power.seen_mean_w(at_s - narrow_s, at_s + narrow_s) == pytest.approx(expected_w, abs=1e-3)
    assert power.seen_energy_j(4.0) == pytest.approx(power.energy_j(4.0), rel=1e-9), "nothing is lost"


def test_a_single_pulse_through_a_boxcar_is_a_trapezoid():
    """A pulse of 100 W for 10 ms behind a boxcar of 40 ms: 25 W for 30 ms, with edges of 10 ms."""
    power = TruePower(np.array([0.0, 1.0, 1.01, 4.0]), np.array([0.0, 100.0, 0.0]))
    times_s = np.array([1.0, 1.005, 1.01, 1.04, 1.045, 1.05])
    # Ramps of 0 → 25 W over 10 ms hold 0.125 J each, the plateau 0.75 J.
    expected_j = [0.0, 0.03125, 0.125, 0.875, 0.96875, 1.0]
    assert power.boxed_energy_j(times_s, 0.04) == pytest.approx(expected_j, abs=1e-12)


def by_small_steps(power, tick_s, window_s, tau_s, step_s=2e-5):
    """(∫y averaged over the window, mean of y in the window) up to a time, by Euler's half steps."""
    times_s = np.arange(0.0, tick_s, step_s) + step_s / 2
    true_w = power.power_w[np.searchsorted(power.edges_s, times_s, side="right") - 1]
    seen_w = []
    state_w = float(true_w[0])
    for now_w in true_w.tolist():
        before_w, state_w = state_w, state_w + (now_w - state_w) * step_s / tau_s
        seen_w.append((before_w + state_w) / 2)
    energy_j = np.cumsum(seen_w) * step_s
    in_window = times_s > tick_s - window_s
    return energy_j[in_window].mean(), np.array(seen_w)[in_window].mean()


@pytest.mark.parametrize("tick_s", [1.03, 1.07, 1.2, 1.41])
def test_filter_and_boxcar_agree_with_small_steps(tick_s):
    power, wrong = device(tau_s=0.03), device(tau_s=0.04)
    energy_j, mean_w = by_small_steps(power, tick_s, 0.02, 0.03)
    assert power.boxed_energy_j(tick_s, 0.02) == pytest.approx(energy_j, abs=0.01)
    assert power.seen_mean_w(tick_s - 0.02, tick_s) == pytest.approx(mean_w, abs=0.5)
    assert abs(wrong.seen_mean_w(tick_s - 0.02, tick_s) - mean_w) > 5, "another filter must stand out"


def test_a_sampling_counter_sees_its_window_and_nothing_else():
    """A quarter of each 100 ms is seen: a pulse inside counts four times, one outside not at all."""
    counter = still(sampling=True, lag_s=0.0, late_s=0.0)

    def rise_uj(start_s):
        power = from_steps([(start_s, start_s + 0.01)], [400.0], idle_w=0.0, begin_s=0.0, end_s=3.0)
        readings = log(counter, power, 0.0, np.random.default_rng(0))
        return readings[-1].energy_uj - readings[0].energy_uj if len(readings) > 1 else 0

    assert rise_uj(1.08) == pytest.approx(4 * 4_000_000, rel=1e-6)
    assert rise_uj(1.03) == 0


@pytest.mark.parametrize("sampling", [False, True])
def test_a_poller_sees_changes_only_late_and_in_order(sampling):
    counter = still(sampling=sampling, late_s=0.0002, missing=0.1, noise_w=1.0)
    readings = log(counter, device(), 0.037, np.random.default_rng(3), base_uj=5_000)
    energies = [reading.energy_uj for reading in readings]
    assert all(b > a for a, b in pairwise(energies))
    assert energies[0] >= 5_000
    gaps_s = np.diff([reading.time_s for reading in readings])
    assert np.median(gaps_s) == pytest.approx(0.1, abs=0.003)
    assert gaps_s.max() == pytest.approx(0.2, abs=0.01), "with a tenth of ticks missing some gap is double"
    lateness_s = [(r.time_s - 0.037) % 0.1 for r in readings]
    assert min(lateness_s) > 0 and max(lateness_s) < 0.008, "a poll comes after 1 ms, at times after 5"


def test_an_integrating_counter_conserves_energy_whatever_it_drops():
    for seed in range(20):
        counter = still(late_s=0.0002, tick_jitter_s=0.001, missing=0.2, gain=0.95)
        readings = log(counter, device(tau_s=0.02), 0.01 * seed, np.random.default_rng(seed))
        idle_uj = 0.95 * 90e6 * (readings[-1].time_s - readings[0].time_s)
        busy_uj = 0.95 * 1e6 * sum((w - 90) * (b - a) for (a, b), w in zip(SPANS, WATTS, strict=True))
        # The log's times are up to 1.5 ms late, at 90 W.
        assert readings[-1].energy_uj - readings[0].energy_uj == pytest.approx(idle_uj + busy_uj, abs=400_000)


def test_drift_lets_power_grow_towards_its_bound():
    warm = from_steps([(1.0, 60.0)], [300.0], idle_w=50.0, begin_s=0, end_s=70, drift=0.08, drift_tau_s=5.0)
    assert warm.between_j(1.0, 1.005) == pytest.approx(1.5, rel=1e-3)
    assert warm.between_j(59.0, 60.0) == pytest.approx(300 * 1.08, rel=1e-4)
    assert warm.between_j(6.0, 6.01) == pytest.approx(3 * (1 + 0.08 * (1 - math.exp(-1))), rel=1e-3)


def test_what_lies_outside_the_known_past_is_refused():
    with pytest.raises(ValueError, match="outside"):
        device().energy_j(3.5)
    with pytest.raises(ValueError, match="ascend"):
        TruePower(np.array([0.0, 2.0, 1.0]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="do not fit"):
        TruePower(np.array([0.0, 2.0]), np.array([1.0, 2.0]))
