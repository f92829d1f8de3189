"""A device, a meter and a power sensor by brute force on a raster of 0.1 ms: shares no code with the model.

The true power is an array, the filter of first order a loop over it, the boxcar a mean of array slices, the
log what a poller would have seen. Gives the arrays of a recording, in its own units.
"""

import numpy as np

RASTER_S = 1e-4
BEFORE_S = 3.0  # the device has idled for so long when the recording begins


def recording(
    switches_s,
    *,
    end_s,
    period_s=0.1012,
    lag_s=0.02,
    boxcar_s=0.025,
    tau_s=0.0,
    gain=0.96,
    offset_w=-2.0,
    idle_w=65.0,
    load_w=195.0,
    noise_w=0.2,
    poll_s=0.013,
    phase_s=0.037,
    seed=0,
):
    """Arrays as in a file; the load is on from each first to each second of `switches_s`.

    A last one without a partner ends a pause, as in the recordings of real GPUs.
    """
    rng = np.random.default_rng(seed)
    raster_s = np.arange(-BEFORE_S, end_s, RASTER_S)
    on = np.searchsorted(np.asarray(switches_s)[: len(switches_s) // 2 * 2], raster_s, side="right") % 2
    true_w = np.where(on, load_w, idle_w)
    seen_w = first_order(true_w, tau_s) if tau_s else true_w
    updates_s = np.arange(phase_s - 1.0, end_s, period_s)
    shown_w = []
    for update_s in updates_s:
        stop = round((update_s - lag_s + BEFORE_S) / RASTER_S)
        start = min(round((update_s - lag_s - boxcar_s + BEFORE_S) / RASTER_S), stop - 1)
        shown_w.append(gain * seen_w[start:stop].mean() + offset_w + noise_w * rng.standard_normal())
    polls_s = np.cumsum(poll_s * rng.uniform(0.95, 1.15, int((end_s + 0.4) / poll_s))) - 0.5
    polls_s = polls_s[polls_s < end_s]
    latest = np.searchsorted(updates_s, polls_s, side="right") - 1
    log_w = np.round(np.array(shown_w), 2)[latest]
    meter = slice(round(BEFORE_S / RASTER_S), None, 2)
    meter_w = true_w[meter] + 2.0 * rng.standard_normal(len(true_w[meter]))
    return {
        "meter_t_ms": raster_s[meter] * 1e3,
        "meter_power_w": meter_w.astype(np.float32),
        "sensor_t_ms": polls_s * 1e3,
        "sensor_draw_w": log_w.astype(np.float32),
        "sensor_instant_w": log_w.astype(np.float32),
        "load_mark_t_ms": np.repeat(np.asarray(switches_s), 2) * 1e3,
    }


def first_order(power_w, tau_s):
    """The filter by small steps; a raster of 0.1 ms is fine enough for 5 ms and more."""
    state_w, seen_w = float(power_w[0]), []
    for now_w in power_w.tolist():
        state_w += (now_w - state_w) * RASTER_S / tau_s
        seen_w.append(state_w)
    return np.array(seen_w)


def wave(cycle_s, seconds, *, dither=0.0, start_s=1.0, seed=1):
    """Switching times of a square wave and the end of its last pause.

    Each half is up to `dither` longer or shorter.
    """
    rng = np.random.default_rng(seed)
    halves = cycle_s / 2 * (1 + dither * rng.uniform(-1, 1, 2 * round(seconds / cycle_s)))
    return start_s + np.concatenate([[0.0], np.cumsum(halves)])
