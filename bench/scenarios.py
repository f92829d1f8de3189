"""Random devices, sensors and requests of known energy, for the attribution study. Knows nothing of any fit.

A scenario is one device behind one counter, requests that calibrate it, single requests to be judged, and one
request repeated at random offsets to the counter's ticks. Ranges are those that the sensors and models of the
field span (docs/energy.md); every figure is invented, no device was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.simulated_sensor import Counter, log
from bench.true_power import Array, from_steps
from engine.energy.attribution import Share, StepMark
from engine.energy.meter import Reading, Sensor
from kernels.cost import RowWork

TICKS_S = (0.01, 0.02, 0.1)
TOKENS_S = ((0.001, 0.002), (0.002, 0.005), (0.005, 0.01), (0.01, 0.02))
DUTIES = (1.0, 0.25)
PREFILL_S = (0.02, 0.4)
NEW_TOKENS = (16, 512)
CALIBRATIONS = 16
REPEATS = 16
GAIN_ERROR = 0.05
_ORIGIN_S = 100.0  # of every request's clock
_MARK_S = 1e-5  # standard deviation of a step's times


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the tables. `token_s`: range of a decode step."""

    tick_s: float
    token_s: tuple[float, float]
    duty: float

    @property
    def name(self) -> str:
        low, high = (f"{1e3 * edge:g}" for edge in self.token_s)
        return f"tick {1e3 * self.tick_s:g} ms, token {low}-{high} ms, duty {self.duty:.0%}"


CELLS = tuple(Cell(tick, token, duty) for duty in DUTIES for tick in TICKS_S for token in TOKENS_S)


@dataclass(frozen=True, slots=True)
class Device:
    """True power in W: `idle_w`; prefill of n tokens `prefill_w` + n·`prefill_slope_w`; decode behind a cache of
    n tokens `decode_w` + n·`decode_slope_w`. Times in s: a prefill takes n·`prefill_token_s`, a decode step
    `token_s`, both with `spread` (relative standard deviation), and one decode step in a hundred up to three times
    as long. `tau_s` of the filter between device and sensor; `drift` as in `from_steps`; `scatter`: relative
    standard deviation of a single step's power.
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

    def prompt_tokens(self, prefill_s: float) -> int:
        """The prompt whose prefill takes about so long."""
        return max(round(prefill_s / self.prefill_token_s), 1)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as poller and ledger give it, and its truth: `true_uj` (steps,), `true_window_uj` from
    `start_s` to `end_s`. The truth is the device's own; what the counter shows of it is `Counter.gain` times that.
    """

    readings: tuple[Reading, ...]
    marks: tuple[StepMark, ...]
    works: tuple[tuple[RowWork, ...], ...]
    start_s: float
    end_s: float
    true_uj: Array
    true_window_uj: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """`counter` is the true sensor, `sensor` what the attribution is told of it."""

    cell: Cell
    device: Device
    counter: Counter
    sensor: Sensor
    calibration: tuple[Request, ...]
    single: tuple[Request, ...]
    repeated: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `prompt_tokens` and `new_tokens`; `phase_s` of the counter's ticks behind the request's start.

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
    watts = [_step_w(device, work) * (1 + device.scatter * rng.standard_normal()) for work in works]
    start_s, end_s = _ORIGIN_S, spans_s[-1][1] + plan.idle_s + 0.0001
    past_s = 0.3 + counter.lag_s + counter.window_s + 3 * counter.period_s + 10 * device.tau_s
    power = from_steps(
        spans_s,
        watts,
        idle_w=device.idle_w,
        begin_s=start_s - past_s,
        end_s=end_s + past_s,
        tau_s=device.tau_s,
        drift=device.drift,
        drift_tau_s=5.0,
    )
    readings = log(counter, power, start_s + plan.phase_s, rng, base_uj=int(rng.integers(10**12)) * 1000)
    starts_s, ends_s = np.array(spans_s).T
    return Request(
        readings=tuple(kept(readings, sensor, start_s, end_s)),
        marks=tuple(_marks(spans_s, works, rng)),
        works=tuple((work,) for work in works),
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
    spans_s: Sequence[tuple[float, float]], works: Sequence[RowWork], rng: np.random.Generator
) -> list[StepMark]:
    """Marks a few µs off the truth, in order as the ledger keeps them."""
    marks: list[StepMark] = []
    edge_s = -math.inf
    for (start, stop), work in zip(spans_s, works, strict=True):
        prefill = work.new == work.length
        begun_s = max(start + _MARK_S * float(rng.standard_normal()), edge_s)
        edge_s = max(stop + _MARK_S * float(rng.standard_normal()), begun_s)
        share = Share(0, "prefill" if prefill else "answer", work.new)
        marks.append(StepMark("prefill" if prefill else "decode", begun_s, edge_s, (share,)))
    return marks


def kept(readings: Sequence[Reading], sensor: Sensor, start_s: float, end_s: float) -> list[Reading]:
    """From the last reading that is over before the start to the first that covers the end."""
    over = [r for r in readings if r.time_s - sensor.delay_s <= start_s]
    covering = [r for r in readings if r.time_s - sensor.delay_s >= end_s]
    first = over[-1] if over else readings[0]
    last = covering[0] if covering else readings[-1]
    return [r for r in readings if first.time_s <= r.time_s <= last.time_s]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def draw_device(rng: np.random.Generator, token_s: tuple[float, float]) -> Device:
    """A device whose decode steps take between the two times."""
    prefill_w = float(rng.uniform(250, 700))
    decode_w = float(prefill_w * rng.uniform(0.5, 0.95))
    longest = int(rng.integers(1000, 8000))  # tokens of the longest prefill
    return Device(
        idle_w=float(rng.uniform(0.12, 0.3) * prefill_w),
        prefill_w=prefill_w,
        prefill_slope_w=float(rng.uniform(0, 0.15) * prefill_w / longest),
        decode_w=decode_w,
        decode_slope_w=float(rng.uniform(0, 0.15) * decode_w / longest),
        prefill_token_s=PREFILL_S[1] / longest,
        token_s=_log_uniform(rng, *token_s),
        spread=float(rng.uniform(0.005, 0.03)),
        gap_s=float(rng.uniform(2e-5, 3e-4)),
        tau_s=float(rng.uniform(0.005, 0.05)) if rng.random() < 0.5 else 0.0,
    )


def draw_counter(rng: np.random.Generator, tick_s: float, duty: float) -> Counter:
    """A sensor of that tick; at full duty an integrating counter, else a sampling one."""
    sampling = duty < 1
    boxcar_s = float(rng.uniform(0.2, 1.0) * min(tick_s, 0.025)) if rng.random() < 0.5 else 0.0
    return Counter(
        period_s=tick_s,
        lag_s=float(rng.uniform(0, 0.03)),
        window_s=duty * tick_s if sampling else boxcar_s,
        sampling=sampling,
        tick_jitter_s=float(rng.uniform(0.002, 0.01) * tick_s),
        late_s=float(rng.uniform(5e-5, 3e-4)),
        noise_w=float(rng.uniform(0.2, 2.0)),
        gain=float(np.clip(rng.normal(1, GAIN_ERROR / 1.96), 0.9, 1.1)),
        missing=float(rng.uniform(0, 0.02)),
    )


def plans(rng: np.random.Generator, device: Device, counter: Counter, *, single: int) -> tuple[list[Plan], ...]:
    """(calibration, single, repeated). Calibrations decode for 0.3 to 1.5 s; each start is dithered."""

    def phase_s() -> float:
        return float(rng.uniform(0, counter.period_s))

    def prompt() -> int:
        return device.prompt_tokens(_log_uniform(rng, *PREFILL_S))

    def tokens_in(seconds: float) -> int:
        return int(np.clip(seconds / device.token_s, *NEW_TOKENS))

    def new_tokens() -> int:
        return round(_log_uniform(rng, *NEW_TOKENS))

    calibration = [
        Plan(prompt(), tokens_in(rng.uniform(0.3, 1.5)), phase_s(), float(rng.uniform(0.3, 0.6)))
        for _ in range(CALIBRATIONS)
    ]
    singles = [Plan(prompt(), new_tokens(), phase_s()) for _ in range(single)]
    once = Plan(prompt(), new_tokens(), 0.0)
    return calibration, singles, [replace(once, phase_s=phase_s()) for _ in range(REPEATS)]
