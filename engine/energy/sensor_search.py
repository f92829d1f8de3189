"""The search for lag, boxcar and time constant: a grid first, then downhill from its best points.

For every lag and kernel, gain and offset follow by linear least squares, so that three numbers are left to
search. The residual has many minima wherever a load repeats, and narrow, winding valleys wherever it has few
edges, because a wider kernel with a shorter lag is hardly another sensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.energy.power_trace import Array, PowerTrace, Smoothed
from engine.energy.sensor_model import averaging_s
from engine.energy.sensor_updates import Updates

_ROUNDS = 100


class Kernel(NamedTuple):
    """A boxcar behind a filter of first order."""

    boxcar_s: float
    tau_s: float

    @property
    def window_s(self) -> float:
        return averaging_s(self.boxcar_s, self.tau_s)


@dataclass(frozen=True, slots=True)
class Found:
    """A lag and a kernel, and the residual that they leave."""

    lag_s: float
    kernel: Kernel
    rmse_w: float

    @property
    def delay_s(self) -> float:
        return self.lag_s + self.kernel.boxcar_s / 2 + self.kernel.tau_s


class Residuals:
    """Readings (n,) at their times, and the true power behind them."""

    def __init__(self, trace: PowerTrace, updates: Updates) -> None:
        self.trace, self.updates = trace, updates
        self._smoothed = lru_cache(maxsize=64)(lambda tau_s: Smoothed(trace, tau_s))

    def averaged(self, lags_s: Array, kernel: Kernel) -> Array:
        """(L, n): the power that each reading averages over, for each of the lags."""
        ends_s = self.updates.times_s - lags_s[:, None]
        return self._smoothed(kernel.tau_s).mean(ends_s, kernel.boxcar_s)

    def rmse_w(self, lags_s: Array, kernel: Kernel) -> Array:
        """(L,): what gain and offset, at their best, leave of the readings."""
        return regress(self.averaged(lags_s, kernel), self.updates.readings)[2]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The least residual (C, L) of C cells at L lags, and the window (C, L) with which a cell reaches it.

    A cell lies between two neighbours of the kernels that were tried, and takes the best mixture of them:
    a point of the grid would miss a valley that is narrower than the grid.
    """

    lags_s: Array
    rmse_w: Array
    window_s: Array
    cells: Sequence[tuple[Kernel, Kernel]]


def regress(x: Array, readings: Array) -> tuple[Array, Array, Array]:
    """Gain, offset and residual of readings (n,) on each row of x (L, n); the gain is never negative."""
    x_mean, mean = x.mean(axis=1, keepdims=True), readings.mean()
    x, readings = x - x_mean, readings - mean
    power = (x * x).sum(axis=1)
    gain = np.maximum(x @ readings, 0.0) / np.where(power > 0, power, 1.0)
    left = readings - gain[:, None] * x
    return gain, mean - gain * x_mean[:, 0], np.sqrt((left * left).mean(axis=1))


def lags(period_s: float) -> Array:
    """From 50 ms or half a period of apparent foresight, which clocks that disagree make, to two periods."""
    low_s, high_s = max(period_s / 2, 0.05), max(2 * period_s, 0.1)
    return np.linspace(-low_s, high_s, 1 + min(round((low_s + high_s) / min(period_s / 30, 0.004)), 90))


def boxcars(period_s: float) -> list[float]:
    """Up to 15 periods: `power.draw` of an RTX 3090 averages 1 s and shows it every 0.1 s."""
    return [0.0, *np.geomspace(period_s / 20, 15 * period_s, 21).tolist()]


def taus(period_s: float) -> list[float]:
    """From a thirtieth of a period to two periods."""
    return [0.0, *np.geomspace(period_s / 30, 2 * period_s, 11).tolist()]


def search(residuals: Residuals) -> Grid:
    """Every cell between neighbouring boxcars of one tau, and between neighbouring taus of one boxcar."""
    period_s = residuals.updates.period_s
    lags_s, widths_s = lags(period_s), boxcars(period_s)
    readings = residuals.updates.readings - residuals.updates.readings.mean()
    cells, found, windows = [], [], []
    before: list[tuple[Kernel, Array]] = []
    for tau_s in taus(period_s):
        row: list[tuple[Kernel, Array]] = []
        ends_s = residuals.updates.times_s - lags_s[:, None]
        for index, x in enumerate(Smoothed(residuals.trace, tau_s).means(ends_s, widths_s)):
            here = Kernel(widths_s[index], tau_s)
            x -= x.mean(axis=1, keepdims=True)
            row.append((here, x))
            for there, other in (*row[-2:-1], *before[index : index + 1]):
                rmse_w, share = _mixed(other, x, readings)
                cells.append((there, here))
                found.append(rmse_w)
                windows.append((1 - share) * there.window_s + share * here.window_s)
        before = row
    return Grid(lags_s, np.stack(found), np.stack(windows), cells)


def _mixed(a: Array, b: Array, readings: Array) -> tuple[Array, Array]:
    """Residual (L,) of centred readings (n,) on (1 - share)·a + share·b, at the best share (L,) of [0, 1].

    Least squares with two weights that may not be negative: both, or the better one alone.
    """
    aa, ab, bb = (a * a).sum(axis=1), (a * b).sum(axis=1), (b * b).sum(axis=1)
    ra, rb = a @ readings, b @ readings
    determinant = aa * bb - ab * ab
    safe = np.where(determinant > 1e-12 * aa * bb, determinant, np.inf)
    weight_a, weight_b = (ra * bb - rb * ab) / safe, (rb * aa - ra * ab) / safe
    both = (weight_a > 0) & (weight_b > 0)
    by_a = np.maximum(ra, 0.0) ** 2 / np.where(aa > 0, aa, 1.0)
    by_b = np.maximum(rb, 0.0) ** 2 / np.where(bb > 0, bb, 1.0)
    explained = np.where(both, weight_a * ra + weight_b * rb, np.maximum(by_a, by_b))
    share = np.where(both, weight_b / np.where(both, weight_a + weight_b, 1.0), by_b > by_a)
    left = np.maximum(readings @ readings - explained, 0.0)
    return np.sqrt(left / len(readings)), share


def downhill(residuals: Residuals, lag_s: float, kernel: Kernel, *, boxcar: bool, tau: bool) -> Found:
    """A minimum beside a lag and a kernel: the best of the neighbours again, in steps that shrink.

    `boxcar`, `tau`: which of the two may change. The residual is not smooth where single samples of a meter
    enter or leave a window, so no slopes are taken.
    """
    best = Found(lag_s, kernel, float(residuals.rmse_w(np.array([lag_s]), kernel)[0]))
    step_s = min(residuals.updates.period_s / 30, 0.004)
    width_s = max(step_s, 0.25 * max(kernel))
    scale = 1.0
    for _ in range(_ROUNDS):
        start, delay_s = best, best.delay_s
        for boxcar_s in _beside(start.kernel.boxcar_s, scale * width_s * boxcar):
            for tau_s in _beside(start.kernel.tau_s, scale * width_s * tau):
                # The readings tell the delay best, so that a wider kernel begins with a shorter lag.
                lags_s = delay_s - boxcar_s / 2 - tau_s + scale * step_s * np.arange(-2.0, 3.0)
                rmse_w = residuals.rmse_w(lags_s, Kernel(boxcar_s, tau_s))
                if rmse_w.min() < best.rmse_w * (1 - 1e-6):
                    lag_s = float(lags_s[rmse_w.argmin()])
                    best = Found(lag_s, Kernel(boxcar_s, tau_s), float(rmse_w.min()))
        if best is start:
            if scale < 0.02:
                break
            scale /= 2
    return best


def around(residuals: Residuals, best: Found, within_w: float) -> tuple[Array, Array]:
    """Lags and windows (m,) of the models near the best one that leave no more than `within_w`, it included.

    A finer grid that follows the delay: the cells of the search are too wide to see how far a wider kernel
    with a shorter lag stays as good.
    """
    window_s, reach_s = best.kernel.window_s, residuals.updates.period_s / 4
    lags_s, windows_s = [best.lag_s], [window_s]
    for tau_s in np.linspace(0, window_s, 9):
        for boxcar_s in np.linspace(0, 2 * window_s, 13):
            kernel = Kernel(float(boxcar_s), float(tau_s))
            tried_s = best.delay_s - boxcar_s / 2 - tau_s + np.linspace(-reach_s, reach_s, 41)
            near_s = tried_s[residuals.rmse_w(tried_s, kernel) <= within_w]
            lags_s += near_s.tolist()
            windows_s += [kernel.window_s] * len(near_s)
    return np.array(lags_s), np.array(windows_s)


def _beside(value: float, step: float) -> list[float]:
    return sorted({max(value - step, 0.0), value, value + step})


def minima(values: Array) -> npt.NDArray[np.intp]:
    """Indices at which a profile (n,) is no higher than beside it."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    return np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
