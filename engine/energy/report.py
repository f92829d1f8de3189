"""A request's account: joules by phase and token, what is not attributed, what the figures are worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.energy.attribution import Attribution, StepMark, split
from engine.energy.meter import MICROJOULES_PER_JOULE, Reading, Sensor
from engine.energy.row_parts import row_parts
from engine.steps import Phase
from kernels.cost import Dims

_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """`sd_j`: of `energy_j`, gain error excluded; None where the source allows no interval.

    `energy_j` is None where the meter told nothing. `model_j`, its `model_sd_j` and `ticks`, the number of
    ticks that the phase makes up a tenth of or more, exist where a power model attributed; `energy_j` is
    then the phase's part of the counter's own joules.
    """

    energy_j: float | None
    sd_j: float | None
    tokens: int
    elapsed_s: float
    model_j: float | None = None
    model_sd_j: float | None = None
    ticks: int | None = None


@dataclass(frozen=True, slots=True)
class RowEnergy:
    """One row's joules, and (joules, standard deviation) of its part in each forward, by number.

    `model_by_forward`: the same by the power model, where one attributed. `probes`: J of its probes, by the
    number of the forward, which is theirs alone or one that they rode in; those are in `total_j`, too.
    """

    total_j: float
    by_forward: Mapping[int, tuple[float, float | None]]
    model_by_forward: Mapping[int, tuple[float, float]] | None = None
    probes: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """Joules of one request; `sum(phases) + unattributed_j == total_j` to the microjoule.

    `total_j` is the meter's own difference over the whole ticks that cover the request, so on a slow meter
    some of what was before and after it is inside; `window_j` is the request's own part, from its start to
    its end, its share of the two ticks at its edges. Each has the half-width of its 95 % interval beside
    it, gain error included, None where the source allows none. `complete` is False when the meter failed or
    never settled: what it did tell is here (None: nothing), and `problem` says what happened.

    `attribution` is "model" or "interpolated"; where a model was wanted and refused, `not_identifiable` says
    why, and the phases have no intervals. `ticks`: changes of the reading inside `total_j`. `doubts`: what
    speaks against the sensor's figures or the powers behind the model, one line each. `other_processes` were
    computing on the device, too, so that their joules are in every figure. `steps_timed_together`: decode
    steps that had one time, of which each has an equal part, and with it of the joules; the most of any.
    """

    source: str
    measured: bool
    device: str
    note: str
    attribution: str
    tick_s: float
    ticks: int
    total_j: float | None
    uncertainty_j: float | None
    unattributed_j: float | None
    window_j: float | None
    window_uncertainty_j: float | None
    idle_j: float | None
    setup_j: float | None
    host_j: float | None
    phases: Mapping[str, PhaseEnergy]
    rows: Mapping[int, RowEnergy]
    complete: bool
    problem: str | None
    not_identifiable: str | None = None
    other_processes: tuple[int, ...] = ()
    steps_timed_together: int = 1
    doubts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The part of the CLI's `energy` object that does not depend on a row's tokens."""
        return {
            "source": self.source,
            "measured": self.measured,
            "attribution": self.attribution,
            "not_identifiable": self.not_identifiable,
            "doubts": list(self.doubts),
            "tick_ms": self.tick_s * 1e3,
            "ticks": self.ticks,
            "steps_timed_together": self.steps_timed_together,
            "note": self.note,
            "complete": self.complete,
            "problem": self.problem,
            "other_processes": list(self.other_processes),
            "total_j": self.total_j,
            "uncertainty_j": self.uncertainty_j,
            "unattributed_j": self.unattributed_j,
            "window_j": self.window_j,
            "window_uncertainty_j": self.window_uncertainty_j,
            "idle_j": self.idle_j,
            "setup_j": self.setup_j,
            "host_j": self.host_j,
            "phases": {
                name: {
                    "energy_j": phase.energy_j,
                    "sd_j": phase.sd_j,
                    "tokens": phase.tokens,
                    "elapsed_s": phase.elapsed_s,
                    "model_j": phase.model_j,
                    "model_sd_j": phase.model_sd_j,
                    "ticks": phase.ticks,
                }
                for name, phase in self.phases.items()
            },
        }


def joules(energy_uj: float) -> float:
    """From microjoules."""
    return energy_uj / MICROJOULES_PER_JOULE


def mean_w(before: Reading, after: Reading) -> float | None:
    """Watts between two readings; None where the counter stood still."""
    rise_j = joules(after.energy_uj - before.energy_uj)
    return rise_j / (after.time_s - before.time_s) if rise_j > 0 else None


def uncertainty_j(energy_uj: int, sd_uj: float, sensor: Sensor) -> float | None:
    """Half-width of the 95 % interval of an energy with that deviation; None without a bound on the gain."""
    if sensor.gain_error is None:
        return None
    spread = math.hypot(sd_uj, sensor.resolution_uj / math.sqrt(6))  # two roundings to the counter's step
    return joules(math.hypot(_Z95 * spread, sensor.gain_error * energy_uj))


def by_phase(
    marks: Sequence[StepMark],
    found: Attribution | None,
    tokens: Mapping[str, int],
    deviations_uj: Mapping[str, float] | None,
    dims: Dims | None = None,
) -> dict[str, PhaseEnergy]:
    """Each phase's joules and seconds, a step's split among its rows. `tokens`: emitted, by phase.

    `found` may cover only the first of `marks`, where the meter failed, or be None. `dims`: of the model
    that ran, for the parts of a step's rows.
    """
    covered = found.steps_uj if found else ()
    energy: dict[str, int] = {}
    elapsed: dict[str, float] = {}
    for index, mark in enumerate(marks):
        parts = row_parts(mark, dims)
        split_uj = split(covered[index], parts) if index < len(covered) else [0] * len(parts)
        for share, part, part_uj in zip(mark.shares, parts, split_uj, strict=True):
            energy[share.phase] = energy.get(share.phase, 0) + part_uj
            elapsed[share.phase] = elapsed.get(share.phase, 0.0) + (mark.end_s - mark.start_s) * part
    told = {share.phase for mark in marks[: len(covered)] for share in mark.shares}
    by_model = found.phases if found and found.phases else {}
    return {
        name: PhaseEnergy(
            energy_j=joules(energy[name]) if name in told else None,
            sd_j=joules(deviations_uj[name]) if deviations_uj and name in deviations_uj else None,
            tokens=tokens.get(name, 0),
            elapsed_s=elapsed[name],
            model_j=joules(by_model[name].energy_uj) if name in by_model else None,
            model_sd_j=joules(by_model[name].sd_uj) if name in by_model else None,
            ticks=by_model[name].ticks if name in by_model else None,
        )
        for name in energy
    }


def by_row(
    marks: Sequence[StepMark], found: Attribution, *, with_sd: bool, dims: Dims | None = None
) -> dict[int, RowEnergy]:
    """Each row's joules: its part of every step it was in (`row_parts`)."""
    total: dict[int, int] = {}
    by_forward: dict[int, dict[int, tuple[float, float | None]]] = {}
    by_model: dict[int, dict[int, tuple[float, float]]] = {}
    probes: dict[int, dict[int, float]] = {}
    for number, (mark, step_uj, sd_uj) in enumerate(
        zip(marks, found.steps_uj, found.step_sd_uj, strict=True)
    ):
        parts = row_parts(mark, dims)
        for share, part, part_uj in zip(mark.shares, parts, split(step_uj, parts), strict=True):
            total[share.row] = total.get(share.row, 0) + part_uj
            if share.phase == Phase.PROBE:
                own = probes.setdefault(share.row, {})
                own[number] = own.get(number, 0.0) + joules(part_uj)  # several may ride in one step
                continue
            sd_j = joules(sd_uj * part) if with_sd else None
            by_forward.setdefault(share.row, {})[number] = (joules(part_uj), sd_j)
            if found.model_uj is not None and found.model_sd_uj is not None:
                model = (joules(found.model_uj[number] * part), joules(found.model_sd_uj[number] * part))
                by_model.setdefault(share.row, {})[number] = model
    return {
        row: RowEnergy(joules(total[row]), by_forward.get(row, {}), by_model.get(row), probes.get(row, {}))
        for row in sorted(total)
    }
