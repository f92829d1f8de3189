"""From readings and step marks to joules per step: pure, in whole microjoules, nothing lost.

The counter is taken as rising evenly between two readings, the sensor's lag and half its window taken off;
a step gets what rose while it ran. Cumulative energy is rounded to µJ at every boundary and the steps get
differences of it, so that steps, gaps and edges add up to the meter's own difference exactly.

Only ticks are measured; where energy fell inside a tick is not known. For the part g of a tick with energy
ΔE the standard deviation is ΔE·sqrt(g(1-g)/3): the increments of a Dirichlet process with concentration 2,
for which half a tick holds any share of its energy with equal chance. Over several ticks the deviations add
up, they are not squared: where steps draw more than the gaps between them, every tick errs the same way.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from engine.energy.meter import Reading, Sensor
from kernels.cost import RowWork


@dataclass(frozen=True, slots=True)
class Share:
    """A row's part in a step: the phase it is booked under, and the tokens it fed."""

    row: int
    phase: str
    tokens: int


@dataclass(frozen=True, slots=True)
class StepMark:
    """One forward (and the choice of the tokens) on the clock. `kind`: prefill or decode, for the physics.

    `work`: what each row computed, in the order of `shares`; empty where nobody said.
    """

    kind: str
    start_s: float
    end_s: float
    shares: tuple[Share, ...]
    work: tuple[RowWork, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPhase:
    """A phase by the power model, in µJ; the standard deviation is without the sensor's gain error.

    `ticks`: how many ticks of this request the phase makes up at least a tenth of.
    """

    energy_uj: float
    sd_uj: float
    ticks: int


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whole µJ. `total_uj` is the meter's own difference = sum(steps_uj) + unattributed_uj.

    `window_uj` is the part between the first step's start and the end of the request. `step_sd_uj` is the
    interpolation's; the gain's error is not in it. `ticks`: changes of the reading inside `total_uj`.

    By a power model only, None otherwise: `model_uj` and `model_sd_uj` of each step, `phases` by name as in
    the marks' shares, `model_window_uj` with `model_window_sd_uj`, idle between the steps included;
    `doubts` of the pool that told the powers, one line each.
    `steps_uj` then are the meter's own µJ as the model distributes them inside each tick.
    """

    steps_uj: tuple[int, ...]
    step_sd_uj: tuple[float, ...]
    total_uj: int
    unattributed_uj: int
    window_uj: int
    ticks: int
    model_uj: tuple[float, ...] | None = None
    model_sd_uj: tuple[float, ...] | None = None
    phases: Mapping[str, ModelPhase] | None = None
    model_window_uj: float | None = None
    model_window_sd_uj: float | None = None
    doubts: tuple[str, ...] = ()


class Cumulative:
    """Energy since the first reading, as a function of time: piecewise linear through the readings."""

    def __init__(self, readings: Sequence[Reading], sensor: Sensor) -> None:
        if len(readings) < 2:
            raise ValueError(f"attribution needs two readings or more, found {len(readings)}")
        self.times = [reading.time_s - sensor.delay_s for reading in readings]
        self.energies = [reading.energy_uj - readings[0].energy_uj for reading in readings]

    def at(self, time_s: float) -> int:
        """µJ at a time, rounded; held constant outside the readings."""
        index = bisect_right(self.times, time_s)
        if index == 0:
            return 0
        if index == len(self.times):
            return self.energies[-1]
        start, stop = self.times[index - 1], self.times[index]
        below, above = self.energies[index - 1], self.energies[index]
        return below + round((above - below) * (time_s - start) / (stop - start))

    def deviation(self, spans: Sequence[tuple[float, float]]) -> float:
        """Standard deviation in µJ of the energy inside disjoint, ordered spans."""
        held: dict[int, float] = {}
        for start, stop in spans:
            index = max(bisect_right(self.times, start) - 1, 0)
            while index < len(self.times) - 1 and self.times[index] < stop:
                low, high = max(start, self.times[index]), min(stop, self.times[index + 1])
                if high > low:
                    width = self.times[index + 1] - self.times[index]
                    held[index] = held.get(index, 0.0) + (high - low) / width
                index += 1
        total = 0.0
        for index, part in held.items():
            energy = self.energies[index + 1] - self.energies[index]
            total += energy * math.sqrt(max(part * (1 - part), 0.0) / 3)
        return total


def attribute(
    readings: Sequence[Reading], marks: Sequence[StepMark], sensor: Sensor, *, start_s: float, end_s: float
) -> Attribution:
    """Energy of each mark. Marks are in order of time and do not overlap; `start_s:end_s` is the request.

    Raises `ValueError` for fewer than two readings or a counter that falls.
    """
    if any(b.energy_uj < a.energy_uj for a, b in pairwise(readings)):
        raise ValueError("the counter fell between two readings")
    rise = Cumulative(readings, sensor)
    steps = tuple(rise.at(mark.end_s) - rise.at(mark.start_s) for mark in marks)
    quantum = sensor.resolution_uj / math.sqrt(6)  # two roundings to the counter's step, each uniform
    deviations = tuple(math.hypot(rise.deviation([(m.start_s, m.end_s)]), quantum) for m in marks)
    total = rise.energies[-1]
    return Attribution(
        steps_uj=steps,
        step_sd_uj=deviations,
        total_uj=total,
        unattributed_uj=total - sum(steps),
        window_uj=rise.at(end_s) - rise.at(start_s),
        ticks=sum(b.energy_uj > a.energy_uj for a, b in pairwise(readings)),
    )


def split(energy_uj: int, weights: Sequence[float]) -> list[int]:
    """Whole µJ in proportion to `weights`, none negative; they add up exactly (largest remainder).

    All goes to the last where every weight is 0.
    """
    total = sum(weights)
    if total <= 0:
        return [0] * (len(weights) - 1) + [energy_uj]
    exact = [weight * (energy_uj / total) for weight in weights]
    parts = [int(part) for part in exact]
    left = energy_uj - sum(parts)
    if 0 < left <= len(parts):
        for index in sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])[:left]:
            parts[index] += 1
    elif left:  # a float does not hold every µJ beyond 2**53, and its last bits may round a sum up
        parts[parts.index(max(parts))] += left
    return parts
