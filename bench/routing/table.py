"""Tables of the router's study, from its records and nothing else."""

from collections.abc import Sequence
from statistics import fmean

from bench.record import Record, Value
from bench.routing.played import Kind
from bench.routing.record import BENCHMARK, CERTIFICATE, CHECK, POINT, VERDICT
from bench.tables import markdown, origin

ORDER = (Kind.OURS, Kind.BASELINE, Kind.FIXED, Kind.ORACLE)


def studies(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The router's records by file of outcomes."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.benchmark == BENCHMARK:
            found.setdefault(record.case.model, []).append(record)
    return found


def of_group(records: Sequence[Record], group: str) -> list[Record]:
    """Ours first, then baselines, fixed arms and the oracle."""
    found = [record for record in records if record.group == group]
    return sorted(found, key=lambda record: ORDER.index(Kind(record.arm.engine)))


def router_tables(records: Sequence[Record]) -> str:
    """Verdicts, single points, checks and certificate of every study; empty without any."""
    parts = []
    for name, these in studies(records).items():
        parts += [_verdicts(name, these), _points(name, these), _checks(name, these), _certificate(these)]
        parts.append(worth(these))
    return "\n\n".join(part for part in parts if part)


def router_section(records: Sequence[Record]) -> str:
    """The README's part: the verdicts of every study, and where they are from."""
    found = studies(records)
    if not found:
        return "Not measured.\n"
    parts = [f"{_verdicts(name, these)}\n\n{worth(these)}" for name, these in found.items()]
    stamp = next(iter(found.values()))[0].stamp
    return "\n\n".join([*parts, origin(stamp, False)]) + "\n"


def worth(records: Sequence[Record]) -> str:
    """Whether the joules were measured, and where they are from."""
    energy = records[0].derived["energy"]
    return f"Joules {'measured' if energy.measured else 'NOT MEASURED here'}: {energy.source}."


def _verdicts(name: str, records: Sequence[Record]) -> str:
    questions = records[0].case.rows
    header = (
        f"{name}, {questions} questions",
        "joules saved at −0.5 pt",
        "gap to oracle closed",
        "mean accuracy along joules",
        "over random mix, pt",
        "over agreement, pt",
    )
    rows = [
        [
            record.arm.name,
            _share(record.derived["saved"], "{:.1%}"),
            _share(record.derived["gap"], "{:.0%}"),
            _share(record.derived["area"], "{:.2%}"),
            _share(record.derived["over_mix"], "{:+.2f}"),
            _share(record.derived["over_agreement"], "{:+.2f}"),
        ]
        for record in of_group(records, VERDICT)
    ]
    return markdown(header, rows)


def _points(name: str, records: Sequence[Record]) -> str:
    """Of rules with knobs in prices: the points on the way; every point of the others."""
    header = (f"{name}: point", "right", "J/question", "points lost", "joules saved")
    rows = [
        [
            f"{record.arm.name}: {record.arm.note}".removesuffix(": "),
            _share(record.derived["accuracy"], "{:.2%}"),
            _share(record.derived["energy"], "{:.3g}"),
            _share(record.derived["lost"], "{:.2f}"),
            _share(record.derived["saved"], "{:.1%}"),
        ]
        for record in of_group(records, POINT)
        if not record.arm.note.endswith("points/J")
    ]
    return markdown(header, rows)


def _checks(name: str, records: Sequence[Record]) -> str:
    rows = [
        [
            record.arm.name,
            f"{fmean(record.metrics['ece'].samples):.3f}",
            f"{fmean(record.metrics['covered'].samples):.1%}",
            str(len(record.metrics["ece"].samples)),
        ]
        for record in of_group(records, CHECK)
    ]
    header = (f"{name}: estimates of an arm", "ECE, 10 bins", "within the bound for nine of ten", "seeds")
    return markdown(header, rows)


def _certificate(records: Sequence[Record]) -> str:
    (found,) = of_group(records, CERTIFICATE)
    values = found.derived
    below, delta = values["target_below"].value or 0.0, values["delta"].value or 0.0
    resplits = round(values["resplits"].value or 0)
    said = f"Certified {100 * below:.0f} points below the strongest, δ = {delta:g}, {resplits} resplits: "
    if values["violated"].value is None:
        return said + "no threshold could be certified."
    return (
        f"{said}given in {values['given'].value:.0%}, "
        f"violated in {_share(values['violated'], '{:.1%}')} of those, "
        f"{values['saved'].value:.1%} of the strongest arm's joules saved."
    )


def _share(value: Value, form: str) -> str:
    if value.value is None:
        return ""
    if value.low is None or value.high is None:
        return form.format(value.value)
    return f"{form.format(value.value)} ({form.format(value.low)} to {form.format(value.high)})"
