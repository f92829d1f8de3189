"""Tables and bounds of the attribution study, from its records and nothing else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from bench.attribution.record import BENCHMARK, CORNER, JUDGED, WELL
from bench.attribution.score import ARMS, MODEL
from bench.record import Record
from bench.tables import markdown, origin

LONG_S = 0.06  # a prefill that one request is to tell
COVERAGE = (0.92, 0.98)
ENOUGH = 1000  # scenarios from which on a figure is judged as it stands
Z = 1.96
_QUARTER = "duty 25%"


@dataclass(frozen=True, slots=True)
class Bound:
    """What must hold: `found` with the half-width of its 95 % interval, and the range it has to lie in.

    `holds` is None where too few scenarios ran to tell.
    """

    name: str
    found: float | None
    half: float
    low: float
    high: float
    holds: bool | None


def bounds(records: Sequence[Record]) -> list[Bound]:
    """The study's verdict on the well-specified scenarios; empty without any."""
    model = [r for r in of_phase(records, WELL) if r.arm.name == MODEL]
    if not model:
        return []
    scenarios = round(sum(r.derived["scenarios"].value or 0 for r in model))

    def bound(name: str, samples: Sequence[float], low: float, high: float) -> Bound:
        if not samples:
            return Bound(name, None, 0.0, low, high, False)
        found = fmean(samples)
        # Two of each extreme are added to a coverage, so that 24 hits of 24 leave room.
        half = _half([*samples, 0.0, 0.0, 1.0, 1.0] if (low, high) == COVERAGE else samples)
        inside = low <= found <= high
        reached = low <= found + half and found - half <= high
        undecided = scenarios < ENOUGH and reached and not inside
        return Bound(name, found, half, low, high, None if undecided else inside)

    full = [r for r in model if _QUARTER not in r.case.model]
    quarter = [r for r in model if _QUARTER in r.case.model]
    made = [
        bound("decode token, one request, mean absolute error", _samples(model, "token_error"), 0.0, 0.02),
        bound(
            "prefill of 60 ms and more, one request, full duty",
            [abs(error) for record in full for error in long_prefills(record)],
            0.0,
            0.05,
        ),
        bound(
            "prefill, 16 dithered requests, duty 25 %",
            [abs(error) for error in _samples(quarter, "pooled_prefill_error")],
            0.0,
            0.03,
        ),
    ]
    for judged in JUDGED:
        for metric, words in (
            (f"{judged}_covered", "without gain"),
            (f"{judged}_covered_with_gain", "gain included"),
            (f"pooled_{judged}_covered", "16 requests, without gain"),
        ):
            made.append(bound(f"95 % interval of {judged}, {words}", _samples(model, metric), *COVERAGE))
    return made


def _half(samples: Sequence[float]) -> float:
    """Half of the 95 % interval of their mean."""
    return Z * stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else math.inf


def attribution_tables(records: Sequence[Record]) -> str:
    """Everything the records have; "" where there are none of this benchmark."""
    found = [record for record in records if record.benchmark == BENCHMARK]
    if not found:
        return ""
    parts = [_cell_table(found), _arm_table(found), _corner_table(found), _bound_table(found)]
    return "\n\n".join(part for part in parts if part)


def attribution_section(records: Sequence[Record]) -> str:
    """The README's part: ways of attributing, corners, what must hold, and where it is from."""
    found = [record for record in records if record.benchmark == BENCHMARK]
    if not found:
        return "Not measured.\n"
    tables = (_arm_table(found), _corner_table(found), _bound_table(found), origin(found[0].stamp, False))
    return "\n\n".join(tables) + "\n"


def _cell_table(records: Sequence[Record]) -> str:
    """The model on well-specified scenarios, by tick, token and duty."""
    header = (
        "Model, well-specified",
        "scenarios",
        "token",
        f"prefill ≥ {1e3 * LONG_S:g} ms",
        "prefill, 16 requests",
        *(f"covers {judged}" for judged in JUDGED),
        "prefill, 16",
        "with gain: prefill",
        "refused, flagged",
    )
    rows = [
        [
            record.case.model,
            _number(record.derived["scenarios"].value),
            _mean_percent(_samples([record], "token_error")),
            _mean_percent(long_prefills(record)),
            _mean_percent(_samples([record], "pooled_prefill_error")),
            *(_share(_samples([record], f"{judged}_covered")) for judged in JUDGED),
            _share(_samples([record], "pooled_prefill_covered")),
            _share(_samples([record], "prefill_covered_with_gain")),
            _verdict(record),
        ]
        for record in of_phase(records, WELL)
        if record.arm.name == MODEL
    ]
    return markdown(header, rows) if rows else ""


def _arm_table(records: Sequence[Record]) -> str:
    """All ways of attributing beside each other: mean absolute errors, median ones in brackets."""
    well = of_phase(records, WELL)
    if not well:
        return ""
    duties = list(dict.fromkeys(record.case.model.rpartition(", ")[2] for record in well))
    columns: list[tuple[str, Callable[[Record], list[float]]]] = [
        ("token", lambda record: _samples([record], "token_error")),
        (f"prefill ≥ {1e3 * LONG_S:g} ms", long_prefills),
        ("prefill, 16 requests", lambda record: _samples([record], "pooled_prefill_error")),
    ]
    header = ("Well-specified", *(f"{name}, {duty}" for duty in duties for name, _ in columns))
    rows = []
    for arm in ARMS:
        row = [arm]
        for duty in duties:
            chosen = [r for r in well if r.arm.name == arm and r.case.model.endswith(duty)]
            row += [_mean_percent([e for r in chosen for e in errors(r)]) for _, errors in columns]
        rows.append(row)
    return markdown(header, rows)


def _corner_table(records: Sequence[Record]) -> str:
    """The model where it is told wrong; signed mean errors of the prefill show a bias."""
    header = (
        "Model, misspecified",
        "scenarios",
        "token",
        "prefill",
        "bias of prefill",
        "prefill, 16 requests",
        *(f"covers {judged}" for judged in JUDGED),
        "refused, flagged",
    )
    rows = []
    for record in of_phase(records, CORNER):
        if record.arm.name != MODEL:
            continue
        prefill = _samples([record], "prefill_error")
        rows.append(
            [
                record.case.model,
                _number(record.derived["scenarios"].value),
                _mean_percent(_samples([record], "token_error")),
                _mean_percent(prefill),
                f"{fmean(prefill):+.1%}" if prefill else "",
                _mean_percent(_samples([record], "pooled_prefill_error")),
                *(_share(_samples([record], f"{judged}_covered")) for judged in JUDGED),
                _verdict(record),
            ]
        )
    return markdown(header, rows) if rows else ""


def _bound_table(records: Sequence[Record]) -> str:
    rows = []
    for bound in bounds(records):
        needed = f"≤ {bound.high:.0%}" if bound.low == 0 else f"{bound.low:.0%} to {bound.high:.0%}"
        shown = "nothing" if bound.found is None else f"{bound.found:.2%} ± {bound.half:.2%}"
        verdict = {True: "yes", False: "NO", None: "too few scenarios to tell"}[bound.holds]
        rows.append([bound.name, needed, shown, verdict])
    return markdown(("Must hold, well-specified", "required", "found", "holds"), rows) if rows else ""


def of_phase(records: Sequence[Record], phase: str) -> list[Record]:
    """The study's records of well-specified scenarios, or of corners."""
    return [r for r in records if r.benchmark == BENCHMARK and r.case.phase == phase]


def _samples(records: Sequence[Record], metric: str) -> list[float]:
    return [sample for record in records for sample in record.metrics[metric].samples]


def long_prefills(record: Record) -> list[float]:
    """Errors of those single requests whose prefill is long enough to be judged."""
    errors, lengths_s = record.metrics["prefill_error"].samples, record.metrics["prefill_s"].samples
    return [error for error, seconds in zip(errors, lengths_s, strict=True) if seconds >= LONG_S]


def _mean_percent(errors: Sequence[float]) -> str:
    return f"{fmean(map(abs, errors)):.2%}" if errors else ""


def _share(covered: Sequence[float]) -> str:
    return f"{fmean(covered):.0%}" if covered else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _verdict(record: Record) -> str:
    shares = [record.derived[name].value or 0.0 for name in ("refused", "flagged")]
    return ", ".join(f"{share:.0%}" for share in shares)
