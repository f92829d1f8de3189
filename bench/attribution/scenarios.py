"""Random devices, sensors and requests of known energy, for the attribution study. Knows nothing of any fit.

A scenario is one device behind one counter, requests that calibrate it, single requests to be judged, and one
request repeated at random offsets to the counter's ticks. Ranges are those that the sensors and models of the
field span (docs/energy.md); every figure is invented, no device was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.attribution.simulated_request import Device, Plan, Request, simulate
from bench.attribution.simulated_sensor import Counter
from engine.energy.meter import Sensor

TICKS_S = (0.01, 0.02, 0.1)
TOKENS_S = ((0.001, 0.002), (0.002, 0.005), (0.005, 0.01), (0.01, 0.02))
DUTIES = (1.0, 0.25)
PREFILL_S = (0.02, 0.4)
NEW_TOKENS = (16, 512)
CALIBRATIONS = 16
REPEATS = 16
SINGLES = 4
GAIN_ERROR = 0.05


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
class Scenario:
    """`counter` is the true sensor, `sensor` what the attribution is told of it."""

    cell: Cell
    device: Device
    counter: Counter
    sensor: Sensor
    calibration: tuple[Request, ...]
    single: tuple[Request, ...]
    repeated: tuple[Request, ...]


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


def told(device: Device, counter: Counter) -> Sensor:
    """What a characterisation would say of this counter in front of this device; the gain it cannot tell."""
    return Sensor(
        period_s=counter.period_s,
        lag_s=counter.logged_lag_s,
        window_s=counter.window_s,
        tau_s=device.tau_s,
        sampled=counter.sampling,
        resolution_uj=counter.resolution_uj,
        gain_error=GAIN_ERROR,
        origin="simulated",
    )


@dataclass(frozen=True, slots=True)
class Plans:
    """The requests of a scenario: those that calibrate, single ones, and one request repeated."""

    calibration: tuple[Plan, ...]
    single: tuple[Plan, ...]
    repeated: tuple[Plan, ...]


def draw_plans(rng: np.random.Generator, device: Device, counter: Counter, *, singles: int) -> Plans:
    """Calibrations decode for 0.3 to 1.5 s; every start is dithered against the counter's ticks."""

    def phase_s() -> float:
        return float(rng.uniform(0, counter.period_s))

    def prompt() -> int:
        return device.prompt_tokens(_log_uniform(rng, *PREFILL_S))

    def tokens_in(seconds: float) -> int:
        return int(np.clip(seconds / device.token_s, *NEW_TOKENS))

    def new_tokens() -> int:
        return round(_log_uniform(rng, *NEW_TOKENS))

    once = Plan(prompt(), new_tokens(), 0.0)
    return Plans(
        calibration=tuple(
            Plan(prompt(), tokens_in(rng.uniform(0.3, 1.5)), phase_s(), float(rng.uniform(0.3, 0.6)))
            for _ in range(CALIBRATIONS)
        ),
        single=tuple(Plan(prompt(), new_tokens(), phase_s()) for _ in range(singles)),
        repeated=tuple(replace(once, phase_s=phase_s()) for _ in range(REPEATS)),
    )


def play(
    cell: Cell, device: Device, counter: Counter, sensor: Sensor, plans: Plans, rng: np.random.Generator
) -> Scenario:
    """Run every request of the plans on the device."""

    def run(planned: Sequence[Plan]) -> tuple[Request, ...]:
        return tuple(simulate(device, counter, sensor, plan, rng) for plan in planned)

    return Scenario(
        cell,
        device,
        counter,
        sensor,
        calibration=run(plans.calibration),
        single=run(plans.single),
        repeated=run(plans.repeated),
    )


def well_specified(seed: int, index: int, *, singles: int = SINGLES) -> Scenario:
    """The scenario of that number: cells take turns, and the sensor is told as it is."""
    rng = np.random.default_rng([seed, index])
    cell = CELLS[index % len(CELLS)]
    device = draw_device(rng, cell.token_s)
    counter = draw_counter(rng, cell.tick_s, cell.duty)
    plans = draw_plans(rng, device, counter, singles=singles)
    return play(cell, device, counter, told(device, counter), plans, rng)
