"""A measured cell as a record of `bench.record`, and what figures read back from it.

`case`: phase "request", context the prompt's tokens (of several prompts the rounded mean, the tokens
themselves being the metric `prompt_tokens`), shape the number of prompts. `arm.note`: how it was measured.
Joules are of one request, gross, as the paper has them, and less what the idle device would have drawn.
"""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from bench.experiments.distributions import t_quantile
from bench.experiments.occupancy import named
from bench.experiments.protocol import Cell, Measured, Sample, spread
from bench.experiments.subject import Subject
from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.repeated import Repeated
from engine.energy.meter import Meter

Key = tuple[object, ...]
ABOVE = "above the limit of"
NO_GPU = "the run used no GPU, or NVML does not tell"


def arm_of(subject: Subject, note: str) -> Arm:
    """`note`: how it is measured."""
    name = f"{subject.backend} {subject.quantization}"
    return Arm(name, "tokenjoule", subject.backend, subject.quantization, subject.dtype, None, note)


def case_of(subject: Subject, cell: Cell) -> Case:
    """The cell as a record has it."""
    context = round(cell.prompt_tokens)
    shape = (len(cell.prompts),)
    return Case(subject.id, subject.shape_only, "request", 1, context, cell.new_tokens, shape)


def key_of(benchmark: str, device: str, arm: Arm, case: Case) -> Key:
    """Equal for cells that were measured alike, whenever that was."""
    return benchmark, device, arm, case


def record_key(record: Record) -> Key:
    """`key_of` of a record."""
    return key_of(record.benchmark, record.stamp.device, record.arm, record.case)


def make_record(
    benchmark: str, where: Stamp, subject: Subject, note: str, measured: Measured, index: int, meter: Meter
) -> Record:
    """Of the cell number `index`."""
    cell, samples = measured.cells[index], measured.samples[index]
    case = case_of(subject, cell)
    tokens = cell.prompt_tokens + cell.new_tokens
    gross = _metric("J", [s.request_j for s in samples], samples)
    less = _metric("J", [s.request_less_idle_j(measured.idle_w) for s in samples], samples)
    per_token = _metric(
        "J/tok", [None if s.request_j is None else s.request_j / tokens for s in samples], samples
    )
    seen = [s.occupancy for s in samples]
    metrics = {
        "energy": gross,
        "energy_less_idle": less,
        "energy_per_token": per_token,
        "request_s": Metric("s", tuple(s.window.elapsed_s / s.requests for s in samples)),
        "first_token_s": Metric("s", tuple(s.first_token_s for s in samples)),
        "requests": Metric("1", tuple(float(s.requests) for s in samples)),
        "ticks": Metric("1", tuple(float(s.window.ticks) for s in samples)),
        "prompt_tokens": Metric("1", tuple(float(len(prompt)) for prompt in cell.prompts)),
        "cpu_share": Metric("1", tuple(o.cpu_share for o in seen)),
        "gpu_share": _optional("1", [o.gpu_share for o in seen]),
        "gpu_memory_share": _optional("1", [o.gpu_memory_share for o in seen]),
        "sm_clock": _optional("Hz", [o.sm_clock_hz for o in seen]),
        "memory_clock": _optional("Hz", [o.memory_clock_hz for o in seen]),
    }
    found, others = spread(samples), named(o.others for o in seen)
    derived = {
        "energy": _value(gross, meter),
        "energy_less_idle": _value(less, meter),
        "energy_per_token": _value(per_token, meter),
        "idle_before": _idle(measured.idle_before, meter),
        "idle_after": _idle(measured.idle_after, meter),
        "spread": _spread(found, len(samples), measured.spread_limit),
        "other_processes": Value("1", float(len(others)), source="; ".join(others)),
    }
    group = f"{where.run}/{subject.id} {subject.backend} {subject.quantization}"
    return Record(benchmark, where, arm_of(subject, note), case, group, metrics, derived)


def _spread(found: float | None, windows: int, limit: float) -> Value:
    if found is None:
        return Value("1", None, reason="fewer than two windows with joules")
    where = "within the limit of" if found <= limit else ABOVE
    return Value("1", found, source=f"{windows} windows, standard deviation over mean, {where} {limit:g}")


def _metric(unit: str, values: Sequence[float | None], samples: Sequence[Sample]) -> Metric:
    problem = next((s.window.problem for s in samples if s.window.problem), None)
    return _optional(unit, values, problem or "the idle baseline failed")


def _optional(unit: str, values: Sequence[float | None], reason: str = NO_GPU) -> Metric:
    """All values, or none where one is missing: samples of one round stand side by side."""
    known = tuple(value for value in values if value is not None)
    return Metric(unit, known) if len(known) == len(values) else Metric(unit, (), reason)


def _value(metric: Metric, meter: Meter) -> Value:
    """Mean of the windows; Student's 95 % interval of their scatter, in which the sensor's gain is not."""
    if not metric.samples:
        return Value(metric.unit, None, reason=metric.reason, source=meter.name, measured=meter.measured)
    middle, n = mean(metric.samples), len(metric.samples)
    half = t_quantile(0.95, n - 1) * stdev(metric.samples) / math.sqrt(n) if n > 1 else None
    low, high = (None, None) if half is None else (middle - half, middle + half)
    return Value(metric.unit, middle, low, high, meter.name, meter.measured)


def _idle(baseline: Repeated, meter: Meter) -> Value:
    power_w = baseline.power_w
    if power_w is None:
        return Value(
            "W", None, reason=baseline.problem or "not told", source=meter.name, measured=meter.measured
        )
    half = None if baseline.uncertainty_j is None else baseline.uncertainty_j / baseline.elapsed_s
    low, high = (None, None) if half is None else (power_w - half, power_w + half)
    return Value("W", power_w, low, high, meter.name, meter.measured)


# What the figures read.


def prompt_tokens(record: Record) -> float:
    """Mean of the prompts."""
    return mean(record.metrics["prompt_tokens"].samples)


def joules(record: Record) -> float | None:
    """Of one request, gross."""
    return record.derived["energy"].value


def joules_per_token(record: Record) -> float | None:
    """The paper's Eq. 1: over prompt and new tokens."""
    return record.derived["energy_per_token"].value


def by_model(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Models as they come, quantisations apart; each one's records by prompt and new tokens."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(label(record), []).append(record)
    return {
        name: sorted(these, key=lambda r: (r.case.context, r.case.new_tokens))
        for name, these in found.items()
    }


def label(record: Record) -> str:
    """The model's name as pictures and tables show it."""
    packed = "" if record.arm.quantization == "none" else f" {record.arm.quantization}"
    return record.case.model.removeprefix("preset:") + packed


def newest(records: Sequence[Record]) -> tuple[list[Record], int]:
    """(of each cell the latest record that was measured as the latest of all was, number of the others).

    Measured alike: same experiment, device, backend and settings, the energy source among them. A cell is a
    model, its packing, and its tokens.
    """
    ordered = sorted(records, key=lambda r: r.stamp.utc)  # of one second, the later in the file
    latest = {(_setup(r), label(r), r.case.context, r.case.new_tokens): r for r in ordered}
    if not latest:
        return [], 0
    last = ordered[-1]
    kept = [record for record in latest.values() if _setup(record) == _setup(last)]
    return kept, len(latest) - len(kept)


def _setup(record: Record) -> Key:
    return record.benchmark, record.stamp.device, record.arm.backend, record.arm.note
