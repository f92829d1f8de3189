"""Requests as lines of `bench.record`, back from there to the operating curve, and the curve as a table."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np

from bench.curve_power import power_table
from bench.curve_requests import Taken
from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.tables import markdown
from engine.energy.curve import MOST_OFF, TERMS, CurveKey, OperatingCurve, Provenance
from engine.energy.curve_fit import Sample, fit_curves
from engine.energy.power_model import PowerModel
from engine.errors import TokenjouleError

BENCHMARK = "curves"
MEANINGS = (
    *("request", "prompt", "prompt token", "(prompt token)²", "decode step", "row in a step"),
    "cached position that a row reads",
)


def record(key: CurveKey, where: Stamp, taken: Taken, *, shape_only: bool) -> Record:
    """One size as a line of a file; the arm's note is the curve's key and what the energy source says."""
    size, report = taken.size, taken.report
    source = f"{report.source}, {report.attribution}"
    energy = Value("J", taken.sample.energy_j, source=source, measured=report.measured)
    return Record(
        benchmark=BENCHMARK,
        stamp=where,
        arm=Arm(
            name=f"{key.backend} {key.quantization}",
            engine="tokenjoule",
            backend=key.backend,
            quantization=key.quantization,
            dtype=key.dtype,
            note=json.dumps({"curve": asdict(key), "source": report.note}),
        ),
        case=Case(
            model=key.model,
            shape_only=shape_only,
            phase="request",
            rows=size.rows,
            context=size.prompt_tokens,
            new_tokens=size.new_tokens,
        ),
        group=f"{where.run}/curves",
        metrics={"request_j": Metric("J", taken.energies_j), "request_s": Metric("s", taken.elapsed_s)},
        derived={"energy": energy},
    )


def curve_of(
    records: Sequence[Record], power: PowerModel | None = None
) -> tuple[OperatingCurve, list[Sample]]:
    """The curve of one run's records, and the samples in their order. `power`: fitted to the same run.

    Raises `TokenjouleError` for records of several curves, and as `fit_curves` does.
    """
    if not records:
        raise TokenjouleError("no request was run: the time was too short for one")
    first = records[0]
    if any(other.arm != first.arm for other in records):
        raise TokenjouleError("the requests of this run are of several models, backends or devices")
    key, note = _key(first)
    samples = [
        Sample(
            r.case.context,
            r.case.new_tokens,
            r.case.rows,
            float(np.mean(r.metrics["request_j"].samples)),
            float(np.mean(r.metrics["request_s"].samples)),
            len(r.metrics["request_s"].samples),
        )
        for r in records
    ]
    fitted = fit_curves(samples)
    where = first.stamp
    curve = OperatingCurve(
        fits=key,
        measured=bool(first.derived["energy"].measured),
        energy=fitted.energy,
        seconds=fitted.seconds,
        tested=fitted.tested,
        provenance=Provenance(
            date=where.utc,
            command=" ".join(where.command),
            commit=where.commit or "",
            versions={name: version for name, version in where.versions.items() if version is not None},
            note=note,
            shape_only=first.case.shape_only,
        ),
        power=power,
    )
    return curve, samples


def _key(first: Record) -> tuple[CurveKey, str]:
    """(the key of the curve, the energy source's note) in a record's arm."""
    try:
        note = json.loads(first.arm.note)
        given = note["curve"]
        if set(given) != {field.name for field in fields(CurveKey)}:
            raise ValueError("wrong fields")
        return CurveKey(**given), str(note["source"])
    except (ValueError, TypeError, KeyError) as error:
        raise TokenjouleError(f"the requests do not say what they were run on: {error}") from error


def table(curve: OperatingCurve) -> str:
    """The terms with their 95 % intervals, and what held-out requests say."""
    key, tested = curve.fits, curve.tested
    worth = "measured" if curve.measured else "NOT MEASURED"
    rows = []
    for index, (term, meaning) in enumerate(zip(TERMS, MEANINGS, strict=True)):
        cells = [f"{term}: each {meaning}"]
        for cost in (curve.energy, curve.seconds):
            half = 1.96 * math.sqrt(max(cost.covariance[index][index], 0.0))
            cells.append(f"{cost.coefficients[index]:.3g} ± {half:.1g}")
        rows.append(cells)
    head = (
        f"{key.model} {key.quantization}, {key.dtype}, backend {key.backend} on {key.device}; "
        f"energy {worth}, source {key.source}"
    )
    spans = (tested.prompt_tokens, tested.new_tokens, tested.rows)
    prompts, new, batches = (f"{least} to {most}" for least, most in spans)
    ran = (
        f"{tested.fitted} requests fitted, {tested.calibrated} for the bands, {tested.held_out} held out; "
        f"prompts of {prompts} tokens, {new} new ones, {batches} rows"
    )
    unseen = (
        f"held out: joules {tested.energy_mape:.2%} off on average, {tested.energy_coverage:.1%} inside the "
        f"95 % band; seconds {tested.seconds_mape:.2%} off, {tested.seconds_coverage:.1%} inside"
    )
    if not curve.predicts:
        unseen += f"\n\nREFUSED for budgets: more than {MOST_OFF:.0%} off"
    powers = [power_table(curve.power)] if curve.power else []
    return "\n\n".join([head, markdown(("term", "J", "s"), rows), ran, unseen, *powers])
