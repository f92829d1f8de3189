"""Scenarios whose sensor is not what the attribution is told, or whose device is not what the model says."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.attribution.scenarios import (
    CALIBRATIONS,
    REPEATS,
    SINGLES,
    Cell,
    Plans,
    Scenario,
    draw_counter,
    draw_device,
    draw_plans,
    play,
    told,
)
from bench.attribution.simulated_request import Device, Plan
from bench.attribution.simulated_sensor import Counter
from engine.energy.meter import Sensor

_TOKEN_S = (0.005, 0.01)
_CORNER_CELLS = (Cell(0.02, _TOKEN_S, 1.0), Cell(0.1, _TOKEN_S, 1.0), Cell(0.1, _TOKEN_S, 0.25))
_LOCKED_S = 0.05  # prefill that fits between two windows of 25 ms in 100 ms
_MARGIN_S = 0.004

Change = Callable[[Device, Counter], tuple[Device, Counter, Sensor]]


@dataclass(frozen=True, slots=True)
class Corner:
    """`change` gives the true device and counter, and the sensor as it is told."""

    name: str
    change: Change
    cells: tuple[Cell, ...] = _CORNER_CELLS
    locked: bool = False


def _filter_not_told(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    slow = replace(device, tau_s=0.04)
    return slow, counter, replace(told(slow, counter), tau_s=0.0)


def _filter_told_too_slow(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    slow = replace(device, tau_s=0.02)
    return slow, counter, replace(told(slow, counter), tau_s=0.04)


def _lag_off(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    return device, counter, replace(told(device, counter), lag_s=counter.logged_lag_s + 0.03)


def _window_not_told(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    wide = replace(counter, window_s=0.1)
    return device, wide, replace(told(device, wide), window_s=0.0)


def _sampling_not_told(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    return device, counter, replace(told(device, counter), sampled=False, window_s=0.0)


def _warming(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    warm = replace(device, drift=0.08)
    return warm, counter, told(warm, counter)


def _scattering(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    rough = replace(device, scatter=0.05)
    return rough, counter, told(rough, counter)


def _levels(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    unsteady = replace(device, request_sd=0.01)
    return unsteady, counter, told(unsteady, counter)


def _marks_off(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    late = replace(device, mark_sd_s=1e-5)
    return late, counter, told(late, counter)


def _without_filter(device: Device, counter: Counter) -> tuple[Device, Counter, Sensor]:
    sharp = replace(device, tau_s=0.0)
    return sharp, counter, told(sharp, counter)


CORNERS = (
    Corner("filter of 40 ms not told", _filter_not_told),
    Corner("filter of 20 ms told as 40 ms", _filter_told_too_slow),
    Corner("lag told 30 ms too long", _lag_off),
    Corner("boxcar of 100 ms not told", _window_not_told, _CORNER_CELLS[:2]),
    Corner("sampling told as integrating", _sampling_not_told, _CORNER_CELLS[2:]),
    Corner("power grows 8 % while warming", _warming),
    Corner("power of steps scatters by 5 %", _scattering),
    Corner("power of requests differs by 1 %", _levels),
    Corner("marks off by 10 µs", _marks_off),
    Corner("prefill locked between windows", _without_filter, _CORNER_CELLS[2:], locked=True),
)


def corner_scenario(corner: Corner, seed: int, index: int, *, singles: int = SINGLES) -> Scenario:
    """The scenario of that number in a corner; its cells take turns."""
    rng = np.random.default_rng([seed, index, CORNERS.index(corner) + 1])
    cell = corner.cells[index % len(corner.cells)]
    drawn = draw_counter(rng, cell.tick_s, cell.duty)
    device, counter, sensor = corner.change(draw_device(rng, cell.token_s), drawn)
    if corner.locked:
        plans = _locked(device, counter, singles)
    else:
        plans = draw_plans(rng, device, counter, singles=singles)
    return play(cell, device, counter, sensor, plans, rng)


def _locked(device: Device, counter: Counter, singles: int) -> Plans:
    """One prompt whose prefill always begins just after a window and ends before the next."""
    plan = Plan(device.prompt_tokens(_LOCKED_S), 64, counter.lag_s - _MARGIN_S, 4 * counter.period_s)
    request = replace(plan, idle_s=0.0)
    return Plans((plan,) * CALIBRATIONS, (request,) * singles, (request,) * REPEATS)
