"""Fits the sensor model to readings whose true power is known, and says what the readings cannot tell.

Whether the true power is an external meter's, or 0 and 1 from the switching of a load, is the caller's
business; gain and offset then are to that scale. `sensor_search` has the arithmetic, `sensor_verdict` the
reasons.
"""

from dataclasses import dataclass

import numpy as np

from engine.energy import sensor_verdict as verdict
from engine.energy.power_trace import Array, PowerTrace, Smoothed
from engine.energy.sensor_search import (
    Found,
    Grid,
    Kernel,
    Residuals,
    around,
    downhill,
    minima,
    regress,
    search,
)
from engine.energy.sensor_search import lags as searched_lags
from engine.energy.sensor_updates import Updates

MIN_READINGS = 12
MAX_READINGS = 600  # a search over more takes longer and finds the same
_VARIES = 0.25  # of the whole recording's standard deviation, so that a part has an edge of the load in it


@dataclass(frozen=True, slots=True, eq=False)
class SensorFit:
    """The best model of the readings, and how far the readings tell it from others.

    `lags_s`, `lag_rmse_w`: (L,), the least residual at each lag, whatever the kernel; `inside_rmse_w`: what
    the best kernel leaves of the readings amid a load that switches again and again, None where none does.
    `lag_range_s`, `window_range_s`: the lowest and highest found that leave no more than `nearly_w`, which is
    nearly the same as `rmse_w`.
    `refusal`: why the lag is not identifiable, in one sentence; None where it is. `explained`: whether the
    readings follow the load at all. `window_known`: whether `window_range_s` is narrow, `tau_known`: whether
    a plain boxcar does clearly worse.
    """

    lag_s: float
    kernel: Kernel
    gain: float
    offset_w: float
    rmse_w: float
    lags_s: Array
    lag_rmse_w: Array
    nearly_w: float
    inside_rmse_w: Array | None
    lag_range_s: tuple[float, float]
    window_range_s: tuple[float, float]
    explained: bool
    window_known: bool
    tau_known: bool
    refusal: str | None

    def shown(self, trace: PowerTrace, times_s: Array) -> Array:
        """The readings (n,) that this model shows of a trace at these times."""
        averaged = Smoothed(trace, self.kernel.tau_s).mean(times_s - self.lag_s, self.kernel.boxcar_s)
        return self.gain * averaged + self.offset_w

    def left_of(self, trace: PowerTrace, updates: Updates) -> float:
        """What this model leaves of readings that it need not have been fitted to: RMSE in W."""
        return float(np.sqrt(np.mean((self.shown(trace, updates.times_s) - updates.readings) ** 2)))


def usable(trace: PowerTrace, updates: Updates) -> Updates:
    """The updates that a recorded trace covers at every lag that is searched."""
    lags_s = searched_lags(updates.period_s)
    inside = updates.times_s - lags_s[-1] >= trace.start_s
    return updates.part(inside & (updates.times_s - lags_s[0] <= trace.end_s))


def fit_sensor(trace: PowerTrace, updates: Updates) -> SensorFit:
    """The model that leaves the least of the readings, and the verdict on it.

    A kernel of both boxcar and time constant is taken only where it leaves clearly less than either alone. Of
    more than `MAX_READINGS` a random choice is used, the same each time. Raises `ValueError`, one line for
    the user, for fewer than `MIN_READINGS`.
    """
    count = len(updates.times_s)
    if count < MIN_READINGS:
        raise ValueError(f"only {count} updates of the sensor can be compared, {MIN_READINGS} are needed")
    if count > MAX_READINGS:
        chosen = np.random.default_rng(0).choice(count, MAX_READINGS, replace=False)
        updates = updates.part(np.sort(chosen))
    residuals = Residuals(trace, updates)
    grid = search(residuals)
    best, boxcar_w = _best(residuals, grid)
    x = residuals.averaged(np.array([best.lag_s]), best.kernel)
    gain, offset_w, _ = regress(x, updates.readings)
    nearly_w = verdict.nearly(len(updates.times_s)) * best.rmse_w
    near = grid.rmse_w <= nearly_w
    near_lags, near_windows = around(residuals, best, nearly_w)
    switches_s = verdict.switches(trace)
    # Eight time constants: what is left of a switching by then is 1/3000 of it.
    memory_s = best.kernel.boxcar_s + 8 * best.kernel.tau_s
    wave = verdict.inside_wave(switches_s, updates, grid.lags_s, memory_s)
    inside = Residuals(trace, wave) if wave else None
    lag_range = _range(grid.lags_s[near.any(axis=0)], near_lags)
    explained = verdict.unexplained(updates, best.rmse_w)
    refusal = explained or verdict.ambiguous(updates, lag_range, best.rmse_w)
    if inside is not None and refusal is None:
        outside = len(updates.times_s) - len(inside.updates.times_s)
        refusal = verdict.repeating(inside, switches_s, best, float(gain[0]), outside)
    window_range = _range(grid.window_s[near], near_windows)
    return SensorFit(
        lag_s=best.lag_s,
        kernel=best.kernel,
        gain=float(gain[0]),
        offset_w=float(offset_w[0]),
        rmse_w=best.rmse_w,
        lags_s=grid.lags_s,
        lag_rmse_w=grid.rmse_w.min(axis=0),
        nearly_w=nearly_w,
        inside_rmse_w=inside.rmse_w(grid.lags_s, best.kernel) if inside else None,
        lag_range_s=lag_range,
        window_range_s=window_range,
        explained=explained is None,
        window_known=window_range[1] - window_range[0] <= updates.period_s / 2,
        tau_known=boxcar_w > nearly_w,
        refusal=refusal,
    )


def held_out(trace: PowerTrace, updates: Updates) -> float:
    """Fitted on the earlier part of the readings: the residual on the later part, in W.

    The parts are cut where half of all changes of the reading have gone by, which leaves edges of the load
    to both. Raises `ValueError`, one line for the user, where a part has no edge or too few readings.
    """
    earlier = updates.times_s < half_way(updates)
    parts = updates.part(earlier), updates.part(~earlier)
    if min(part.readings.std() for part in parts) < _VARIES * updates.readings.std():
        raise ValueError("the load changes in one part of the recording only, no other is left to check with")
    return fit_sensor(trace, parts[0]).left_of(trace, parts[1])


def half_way(updates: Updates) -> float:
    """A time before and after which the reading changes by as much; amid a plateau where one is there."""
    changed = np.cumsum(np.abs(np.diff(updates.readings)))
    low, high = np.searchsorted(changed, np.array([0.45, 0.55]) * changed[-1])
    return float(updates.times_s[low + 1] + updates.times_s[high + 1]) / 2


def _best(residuals: Residuals, grid: Grid) -> tuple[Found, float]:
    """(the best model, the residual of the best plain boxcar), downhill from the best cells."""
    found = {}
    for family, boxcar, tau, starts in (("boxcar", 1, 0, 2), ("tau", 0, 1, 2), ("both", 1, 1, 1)):
        rows = [
            row
            for row, (_, kernel) in enumerate(grid.cells)
            if (boxcar or not kernel.boxcar_s) and (tau or not kernel.tau_s)
        ]
        part = grid.rmse_w[rows]
        lowest = minima(part.min(axis=0))
        lowest = lowest[np.argsort(part[:, lowest].min(axis=0))][:starts]
        found[family] = min(
            (
                downhill(
                    residuals,
                    float(grid.lags_s[column]),
                    grid.cells[rows[int(part[:, column].argmin())]][1],
                    boxcar=bool(boxcar),
                    tau=bool(tau),
                )
                for column in lowest
            ),
            key=lambda minimum: minimum.rmse_w,
        )
    plain = min(found["boxcar"], found["tau"], key=lambda minimum: minimum.rmse_w)
    nearly = verdict.nearly(len(residuals.updates.times_s))
    best = found["both"] if found["both"].rmse_w * nearly < plain.rmse_w else plain
    return best, found["boxcar"].rmse_w


def _range(*values: Array) -> tuple[float, float]:
    together = np.concatenate(values)
    return float(together.min()), float(together.max())
