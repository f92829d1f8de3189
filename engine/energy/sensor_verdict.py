"""Whether readings tell a sensor's lag from other lags, and if not, why, in one sentence.

Three things are asked: do the readings follow the load at all; is the least residual the least by far; and
is it still so amid a load that repeats, without the few readings at its ends. The last is the trap of square
waves: a lag that is off by a period of the load fits every reading inside the wave equally well.
"""

import numpy as np

from engine.energy.power_trace import Array, PowerTrace, Smoothed
from engine.energy.sensor_search import Found, Residuals, lags, minima
from engine.energy.sensor_updates import Updates

_NEARLY = 1.1  # residuals within 10 % of the least are nearly equal: errors of the model are of that size
_DOUBT = 16.0  # and those whose squares differ by no more than four standard errors of the noise
_PARAMETERS = 5
_EXPLAINED = 3.0  # the readings must vary this many times more than the model leaves of them
_SETTLE_S = 0.002  # a meter's noise of single samples is no switching of the load
_SWITCHES = 8  # fewer are isolated steps, each of which tells a different time
_INSIDE = 12  # readings
_CLOSE_S = 0.0005  # times of updates are known to a few tenths of a millisecond where polls take 13 ms
_FINE_S = 0.004  # no less than half a step of the lags that are searched


def nearly(readings: int) -> float:
    """Up to this factor above the least, a residual of so many readings is nearly equal to it."""
    return max(_NEARLY, (1 + _DOUBT / max(readings - _PARAMETERS, 1)) ** 0.5)


def allowed_s(updates: Updates) -> float:
    """How far lags may be apart that leave nearly the same residual: a quarter of a period, or one poll."""
    return max(updates.period_s / 4, updates.poll_s)


def unexplained(updates: Updates, rmse_w: float) -> str | None:
    """Whether the readings follow the load: the reason where they do not."""
    varies_w = float(updates.readings.std())
    if rmse_w * _EXPLAINED < varies_w:
        return None
    return (
        f"the readings vary by {varies_w:.3g} W, of which the best model leaves {rmse_w:.3g} W: "
        "they do not follow the load"
    )


def ambiguous(updates: Updates, lag_range_s: tuple[float, float], rmse_w: float) -> str | None:
    """Whether the lag that leaves the least is the only one: the reason where it is not."""
    low_s, high_s = lag_range_s
    if high_s - low_s <= allowed_s(updates):
        return None
    return (
        f"lags from {low_s * 1e3:.0f} to {high_s * 1e3:.0f} ms leave nearly the same residual, "
        f"{rmse_w:.3g} to {nearly(len(updates.times_s)) * rmse_w:.3g} W"
    )


def switches(trace: PowerTrace) -> Array:
    """Times at which the power goes from low to high or back, past a quarter of its range on either side."""
    power_w = Smoothed(trace, _SETTLE_S).power(trace.edges_s)
    low_w, high_w = power_w.min(), power_w.max()
    margin_w = (high_w - low_w) / 4
    if not margin_w > 0:
        return np.array([])
    decided = np.flatnonzero((power_w <= low_w + margin_w) | (power_w >= high_w - margin_w))
    high = power_w[decided] >= high_w - margin_w
    turned = np.flatnonzero(high[1:] != high[:-1]) + 1
    return trace.edges_s[decided[turned] - 1]  # the power at an edge is what the piece before it led to


def inside_wave(switches_s: Array, updates: Updates, lags_s: Array, window_s: float) -> Updates | None:
    """The readings that at each of the lags show the inside of a load that switches again and again.

    None where the load switches fewer than `_SWITCHES` times or too few readings are left.
    """
    if len(switches_s) < _SWITCHES:
        return None
    starts = updates.times_s - lags_s.max() - window_s > switches_s[0]
    inside = updates.part(starts & (updates.times_s - lags_s.min() < switches_s[-1]))
    return inside if len(inside.times_s) >= _INSIDE else None


def repeating(residuals: Residuals, switches_s: Array, best: Found, gain: float, outside: int) -> str | None:
    """Whether a lag far from the best one predicts the same inside a wave: the reason where one does.

    `residuals` are those of the readings inside, `outside` is how many were left out. The same: closer than
    the predictions of lags that are half a millisecond apart, or than what moves the residual by 10 %.
    """
    updates = residuals.updates
    here = residuals.averaged(np.array([best.lag_s]), best.kernel)

    def apart_w(lags_s: Array) -> Array:
        there = residuals.averaged(lags_s, best.kernel)
        return gain * np.sqrt(((there - here) ** 2).mean(axis=1))

    def far(lags_s: Array) -> Array:
        return lags_s[np.abs(lags_s - best.lag_s) > allowed_s(updates)]

    coarse_s = far(lags(updates.period_s))
    nearest_s = coarse_s[minima(apart_w(coarse_s))]
    lags_s = far((nearest_s[:, None] + np.linspace(-_FINE_S, _FINE_S, 81)).ravel())
    found_w = apart_w(lags_s)
    close_w = apart_w(best.lag_s + np.array([-_CLOSE_S, _CLOSE_S])).max()
    if found_w.min() > max(close_w, np.sqrt(_NEARLY**2 - 1) * best.rmse_w):
        return None
    other_s, cycle_s = float(lags_s[found_w.argmin()]), float(np.median(switches_s[2:] - switches_s[:-2]))
    return (
        f"the load repeats every {cycle_s * 1e3:.1f} ms beside a sensor's period of "
        f"{updates.period_s * 1e3:.1f} ms: inside the wave lags of {best.lag_s * 1e3:.0f} and "
        f"{other_s * 1e3:.0f} ms predict the same readings to {found_w.min():.2g} W, and only the {outside} "
        "readings outside of it tell them apart"
    )
