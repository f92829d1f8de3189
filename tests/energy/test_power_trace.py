"""Integrals and filters of piecewise constant power, against small steps."""

import numpy as np
import pytest

from engine.energy.power_trace import PowerTrace, Smoothed
from tests.energy.power_simulation import RASTER_S, first_order

RNG = np.random.default_rng(5)
TRACE = PowerTrace(np.array([0.0, 0.1, 0.25, 0.3, 0.9]), np.array([50.0, 300.0, 80.0, 200.0]))


def raster(until_s):
    times_s = np.arange(-1.0, until_s, RASTER_S)
    piece = np.clip(np.searchsorted(TRACE.edges_s, times_s, side="right") - 1, 0, 3)
    return times_s, TRACE.power_w[piece]


@pytest.mark.parametrize("tau_s", [0.01, 0.04, 0.5])
def test_the_filter_is_that_of_small_steps(tau_s):
    times_s, power_w = raster(1.5)
    # A step's new value holds at its end.
    assert Smoothed(TRACE, tau_s).power(times_s + RASTER_S) == pytest.approx(
        first_order(power_w, tau_s), abs=1.3 * 250 * RASTER_S / tau_s
    )


@pytest.mark.parametrize("tau_s", [0.0, 0.02])
@pytest.mark.parametrize("width_s", [0.0, 0.004, 0.08, 0.7])
def test_means_are_those_of_small_steps(tau_s, width_s):
    _, power_w = raster(1.5)
    seen_w = first_order(power_w, tau_s) if tau_s else power_w
    ends_s = RNG.uniform(-0.05, 1.2, 200)
    ends_s = ends_s[np.abs(ends_s[:, None] - TRACE.edges_s).min(axis=1) > 2 * RASTER_S]
    expected = []
    for end_s in ends_s:
        stop = round((end_s + 1.0) / RASTER_S)
        expected.append(seen_w[min(round((end_s - width_s + 1.0) / RASTER_S), stop - 1) : stop].mean())
    allowed_w = 250 * 2 * RASTER_S / max(width_s, tau_s, 1e-3) if width_s or tau_s else 1e-9
    assert Smoothed(TRACE, tau_s).mean(ends_s, width_s) == pytest.approx(np.array(expected), abs=allowed_w)


def test_energy_between_times():
    energy_j = TRACE.energy_j(np.array([0.0, 0.05, -1.0]), np.array([0.9, 0.2, 2.0]))
    whole_j = 0.1 * 50 + 0.15 * 300 + 0.05 * 80 + 0.6 * 200
    assert energy_j == pytest.approx([whole_j, 0.05 * 50 + 0.1 * 300, 50 + whole_j + 1.1 * 200])


def test_long_traces_lose_no_digits():
    """Three minutes of 0.2 ms samples: sums of a million pieces, differences of a few joules."""
    number = np.arange(1_000_000)
    trace = PowerTrace.from_samples(number * 2e-4, np.where(number // 250 % 2, 70.0, 700.0))
    ends_s = np.array([0.049, 199.949])
    first_w, last_w = Smoothed(trace, 0.012).mean(ends_s + 0.0001, 0.025)
    assert last_w == pytest.approx(Smoothed(trace, 0.012).mean(ends_s[1:] - 99.9999, 0.025)[0], abs=1e-6)
    assert last_w < first_w  # the first half wave began at its own level, settled


def test_samples_hold_to_the_middle_between_them():
    trace = PowerTrace.from_samples(np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0, 40.0]))
    assert trace.energy_j(np.array([0.0]), np.array([3.0])) == pytest.approx([0.5 * 10 + 1.5 * 20 + 1 * 40])


@pytest.mark.parametrize("marks_s", [[1.0, 2.0, 2.5, 4.0], [1.0, 2.0, 2.5, 4.0, 7.0]])
def test_a_load_is_on_between_pairs_of_marks(marks_s):
    """The last mark of an odd number ends a pause: nothing is switched on."""
    shown = Smoothed(PowerTrace.from_marks(marks_s)).power(np.array([-5.0, 0.9, 1.5, 2.2, 3.0, 5.0, 99.0]))
    assert shown.tolist() == [0, 0, 1, 0, 1, 0, 0]


def test_widened_holds_the_means_of_the_ends():
    wide = TRACE.widened(2.0, 0.2)
    assert (wide.start_s, wide.end_s) == (-2.0, 2.9)
    energy_j = wide.energy_j(np.array([-2.0, 0.9]), np.array([0.0, 2.9]))
    assert energy_j == pytest.approx([2 * (50 + 300) / 2, 2 * 200])


@pytest.mark.parametrize(
    ("edges_s", "power_w"),
    [([0.0, 1.0], []), ([0.0, 1.0], [1.0, 2.0]), ([0.0, 0.0], [1.0]), ([1.0, 0.5], [1.0])],
)
def test_nonsense_is_refused(edges_s, power_w):
    with pytest.raises(ValueError, match="edges"):
        PowerTrace(np.array(edges_s), np.array(power_w))


def test_a_negative_time_constant_and_a_single_sample_are_refused():
    with pytest.raises(ValueError, match="-1"):
        Smoothed(TRACE, -1.0)
    with pytest.raises(ValueError, match="found 1"):
        PowerTrace.from_samples(np.array([1.0]), np.array([1.0]))
