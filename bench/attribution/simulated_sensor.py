"""An energy counter before a simulated device, and a poller that logs it: readings as the ledger gets them.

An integrating counter shows, at tick T, the energy up to T - lag, averaged over the boxcar. A sampling
counter sees `window_s` before each T - lag and takes it for the whole time since the last tick; what it
missed is lost for good. Ticks that are dropped (no poll came in time) or stuck (the old value was published
again) are not logged; the counter carries them on. Shares no code with the fit that the study judges.
"""

from dataclasses import dataclass

import numpy as np

from bench.attribution.true_power import Array, TruePower
from engine.energy.meter import MICROJOULES_PER_JOULE, Reading


@dataclass(frozen=True, slots=True)
class Counter:
    """The true sensor.

    `period_s` between ticks; `tick_jitter_s` standard deviation of a tick's time, which the counter's own
    clock knows; `late_s` mean of the exponential delay until the new value can be read. `sampling`: see the
    module. `noise_w`: standard deviation of a tick's mean power, white. `gain` multiplies. The counter is cut
    down to whole `resolution_uj`. `missing`: chance that a tick is not seen. `poll_s`: mean time between two
    polls, of which one in two hundred comes five times as late.
    """

    period_s: float
    lag_s: float
    window_s: float
    sampling: bool = False
    tick_jitter_s: float = 0.0
    late_s: float = 0.0
    noise_w: float = 0.0
    gain: float = 1.0
    resolution_uj: int = 1000
    missing: float = 0.0
    poll_s: float = 0.001

    @property
    def logged_lag_s(self) -> float:
        """Lag of the log's times: what a characterisation by the same poller finds, on average."""
        return self.lag_s + self.late_s + self.poll_s / 2 + CALL_S / 2


CALL_S = 0.0001  # mean of what a read takes


def log(
    counter: Counter, device: TruePower, phase_s: float, rng: np.random.Generator, base_uj: int = 0
) -> list[Reading]:
    """The changes that a poller sees, over all time that the device's power is known for.

    Ticks are at `phase_s` + k·period. Energies count from `base_uj`.
    """
    ticks_s = _tick_times(counter, device, phase_s, rng)
    shown_uj = base_uj + _shown_uj(counter, device, ticks_s, rng)
    visible_s = ticks_s + (rng.exponential(counter.late_s, len(ticks_s)) if counter.late_s else 0.0)
    visible_s = np.maximum.accumulate(visible_s)
    seen = rng.random(len(ticks_s)) >= counter.missing
    polls_s = _polls(counter, float(ticks_s[0]), float(ticks_s[-1]) + 10 * counter.poll_s, rng)
    latest = np.searchsorted(visible_s[seen], polls_s, side="right") - 1  # tick that each poll sees; -1: none
    first = np.flatnonzero((np.diff(latest, prepend=-1) > 0) & (latest >= 0))
    values = shown_uj[seen][latest[first]]
    changed = np.diff(values, prepend=-1) > 0
    took_s = CALL_S * rng.uniform(0.5, 1.5, len(first))
    return [
        Reading(float(before), float(before + took), int(value))
        for before, took, value, new in zip(polls_s[first], took_s, values, changed, strict=True)
        if new
    ]


def _tick_times(counter: Counter, device: TruePower, phase_s: float, rng: np.random.Generator) -> Array:
    """Times of all ticks for which the device's past is known."""
    from_s = float(device.edges_s[0]) + counter.lag_s + counter.window_s + 2 * counter.period_s
    to_s = float(device.edges_s[-1]) - counter.period_s
    first = np.ceil((from_s - phase_s) / counter.period_s)
    last = np.floor((to_s - phase_s) / counter.period_s)
    ticks_s = phase_s + counter.period_s * np.arange(first, last + 1)
    if counter.tick_jitter_s:
        bound_s = 0.3 * counter.period_s  # ticks keep their order
        ticks_s = ticks_s + np.clip(rng.normal(0, counter.tick_jitter_s, len(ticks_s)), -bound_s, bound_s)
    return np.asarray(ticks_s)


def _shown_uj(counter: Counter, device: TruePower, ticks_s: Array, rng: np.random.Generator) -> np.ndarray:
    """µJ shown from each tick on, whole steps of the resolution; the first tick shows 0."""
    until_s = ticks_s - counter.lag_s
    between_s = np.diff(ticks_s)
    if counter.sampling:
        rises_j = device.seen_mean_w(until_s[1:] - counter.window_s, until_s[1:]) * between_s
    else:
        rises_j = np.diff(device.boxed_energy_j(until_s, counter.window_s))
    rises_j = counter.gain * rises_j
    if counter.noise_w:
        rises_j = rises_j + rng.normal(0, counter.noise_w, len(rises_j)) * between_s
    exact_uj = np.concatenate([[0.0], np.cumsum(np.maximum(rises_j, 0.0))]) * MICROJOULES_PER_JOULE
    return (np.floor(exact_uj / counter.resolution_uj) * counter.resolution_uj).astype(np.int64)


def _polls(counter: Counter, from_s: float, to_s: float, rng: np.random.Generator) -> Array:
    """Start times of the polls; gaps vary by a fifth."""
    count = int((to_s - from_s) / counter.poll_s * 1.1) + 10
    gaps_s = counter.poll_s * rng.uniform(0.8, 1.2, count) * np.where(rng.random(count) < 0.005, 5.0, 1.0)
    polls_s = from_s + np.cumsum(gaps_s)
    return np.asarray(polls_s[polls_s < to_s])
