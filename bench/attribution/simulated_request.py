"""Requests of known energy on a simulated device, as poller and ledger give them. Knows of no fit."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.attribution.simulated_sensor import Counter, log
from bench.attribution.true_power import Array, from_steps
from engine.energy.attribution import Share, StepMark
from engine.energy.meter import Reading, Sensor
from kernels.cost import RowWork

_ORIGIN_S = 100.0  # of every request's clock
_WARM_S = 5.0  # time constant of a device that warms up


@dataclass(frozen=True, slots=True)
class Device:
    """True power in W: `idle_w`; prefill of n tokens `prefill_w` + n·`prefill_slope_w`; decode behind a cache
    of n tokens `decode_w` + n·`decode_slope_w`. Times in s: a prefill takes n·`prefill_token_s`, a decode
    step `token_s`, both with `spread` (relative standard deviation), one decode step in a hundred up to three
    times that, and about `gap_s` of idle follow. `tau_s` of the filter between device and sensor; `drift` as
    in `from_steps`. Relative standard deviations: `scatter` of a single step's power, `request_sd` of
    all power in a request, idle included. `mark_sd_s`: standard deviation of a step's times as marked, that
    of a CUDA event's resolution.
    """

    idle_w: float
    prefill_w: float
    prefill_slope_w: float
    decode_w: float
    decode_slope_w: float
    prefill_token_s: float
    token_s: float
    spread: float
    gap_s: float
    tau_s: float = 0.0
    drift: float = 0.0
    scatter: float = 0.0
    request_sd: float = 0.0
    mark_sd_s: float = 5e-7

    def prompt_tokens(self, prefill_s: float) -> int:
        """The prompt whose prefill takes about so long."""
        return max(round(prefill_s / self.prefill_token_s), 1)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as poller and ledger give it, and its truth: `true_uj` (steps,), `true_window_uj` from
    `start_s` to `end_s`. The truth is the device's own; the counter shows `Counter.gain` times that.
    """

    readings: tuple[Reading, ...]
    marks: tuple[StepMark, ...]
    start_s: float
    end_s: float
    true_uj: Array
    true_window_uj: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `phase_s`: how far behind the request's start one of the counter's ticks is.

    `idle_s`: idle before and after that counts as part of the request, for a calibration.
    """

    prompt_tokens: int
    new_tokens: int
    phase_s: float
    idle_s: float = 0.0


def simulate(
    device: Device, counter: Counter, sensor: Sensor, plan: Plan, rng: np.random.Generator
) -> Request:
    """One request on the device, seen by the counter, kept as a ledger that believes in `sensor` keeps it."""
    first_s = _ORIGIN_S + plan.idle_s + rng.uniform(0.0002, 0.002)
    spans_s, works = _schedule(device, plan, first_s, rng)
    level = 1 + device.request_sd * rng.standard_normal()
    watts = [level * _step_w(device, work) * (1 + device.scatter * rng.standard_normal()) for work in works]
    start_s, end_s = _ORIGIN_S, spans_s[-1][1] + plan.idle_s + 0.0001
    past_s = 0.3 + counter.lag_s + counter.window_s + 3 * counter.period_s + 10 * device.tau_s
    power = from_steps(
        spans_s,
        watts,
        idle_w=level * device.idle_w,
        begin_s=start_s - past_s,
        end_s=end_s + past_s,
        tau_s=device.tau_s,
        drift=device.drift,
        drift_tau_s=_WARM_S,
    )
    readings = log(counter, power, start_s + plan.phase_s, rng, base_uj=int(rng.integers(10**12)) * 1000)
    starts_s, ends_s = np.array(spans_s).T
    return Request(
        readings=tuple(kept(readings, sensor, start_s, end_s)),
        marks=tuple(_marks(spans_s, works, device.mark_sd_s, rng)),
        start_s=start_s,
        end_s=end_s,
        true_uj=power.between_j(starts_s, ends_s) * 1e6,
        true_window_uj=float(power.between_j(start_s, end_s)) * 1e6,
    )


def _schedule(
    device: Device, plan: Plan, first_s: float, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], list[RowWork]]:
    """Spans and work of the prefill and of every decode step: N new tokens take N - 1."""
    count = plan.new_tokens - 1
    lengths_s = np.empty(count + 1)
    lengths_s[0] = plan.prompt_tokens * device.prefill_token_s
    lengths_s[1:] = device.token_s * np.where(rng.random(count) < 0.01, rng.uniform(1, 3, count), 1.0)
    lengths_s *= np.exp(device.spread * rng.standard_normal(count + 1))
    gaps_s = device.gap_s * rng.uniform(0.5, 1.5, count + 1)
    starts_s = first_s + np.concatenate([[0.0], np.cumsum(lengths_s + gaps_s)[:-1]])
    spans = list(zip(starts_s.tolist(), (starts_s + lengths_s).tolist(), strict=True))
    prompt = plan.prompt_tokens
    decodes = [RowWork(1, prompt + token) for token in range(1, count + 1)]
    return spans, [RowWork(prompt, prompt), *decodes]


def _step_w(device: Device, work: RowWork) -> float:
    if work.new == work.length:
        return device.prefill_w + device.prefill_slope_w * work.new
    return device.decode_w + device.decode_slope_w * work.length


def _marks(
    spans_s: Sequence[tuple[float, float]], works: Sequence[RowWork], sd_s: float, rng: np.random.Generator
) -> list[StepMark]:
    """Marks off the truth by `sd_s`, in order as the ledger keeps them."""
    edges_s = np.array(spans_s).ravel() + sd_s * rng.standard_normal(2 * len(spans_s))
    edges = np.maximum.accumulate(edges_s).tolist()
    prefill, answer = (Share(0, "prefill", works[0].new),), (Share(0, "answer", 1),)
    decodes = [
        StepMark("decode", start, stop, answer, (work,))
        for start, stop, work in zip(edges[2::2], edges[3::2], works[1:], strict=True)
    ]
    return [StepMark("prefill", edges[0], edges[1], prefill, (works[0],)), *decodes]


def kept(readings: Sequence[Reading], sensor: Sensor, start_s: float, end_s: float) -> list[Reading]:
    """From the last reading that is over before the start to the first that covers the end."""
    told_s = [reading.time_s - sensor.delay_s for reading in readings]
    first = max(bisect_right(told_s, start_s) - 1, 0)
    return list(readings[first : bisect_left(told_s, end_s) + 1])
