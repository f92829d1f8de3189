"""Tables of the router's study, from its records and nothing else."""

from collections.abc import Sequence
from statistics import fmean

from bench.record import Metric, Record
from bench.routing.played import Kind
from bench.routing.record import (
    BENCHMARK,
    CATEGORY,
    CERTIFICATE,
    CHARGE,
    CHECK,
    FROZEN,
    OVER,
    POINT,
    PRESSURE,
    PRICED,
    PROMISE,
    UNSEEN,
    VERDICT,
)
from bench.routing.requirements import requirements_table
from bench.routing.requirements import shown as _share
from bench.tables import markdown, origin

ORDER = (Kind.OURS, Kind.BASELINE, Kind.FIXED, Kind.ORACLE)


def studies(records: Sequence[Record], *benchmarks: str) -> dict[str, list[Record]]:
    """The router's records by file of outcomes; of some `benchmarks`, by default of all."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.benchmark in (benchmarks or (BENCHMARK, FROZEN)):
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
        if these[0].benchmark == FROZEN:
            parts.append(_required(name, these))
        parts += [_verdicts(name, these), _over(name, these), _points(name, these)]
        parts += [_categories(name, these), _checks(name, these)]
        parts += [_unseen(name, these), _certificate(these), _promises(these), _pressures(name, these)]
        parts.append(worth(these))
    return "\n\n".join(part for part in parts if part)


def router_section(records: Sequence[Record]) -> str:
    """The README's part: the verdicts of every study, and where they are from."""
    found = studies(records, BENCHMARK)
    if not found:
        return "Not measured.\n"
    parts = [f"{_verdicts(name, these)}\n\n{worth(these)}" for name, these in found.items()]
    stamp = next(iter(found.values()))[0].stamp
    return "\n\n".join([*parts, origin(stamp, False)]) + "\n"


def testbed_section(records: Sequence[Record]) -> str:
    """The README's part: on the bundled models' arms, what has to hold, verdicts, pressures, provenance."""
    parts = []
    for name, these in studies(records, FROZEN).items():
        parts += [_required(name, these), _verdicts(name, these), _points(name, these, brief=True)]
        parts += [_categories(name, these), _unseen(name, these)]
        parts += [_pressures(name, these), worth(these), origin(these[0].stamp, False)]
    return "\n\n".join(part for part in parts if part) + "\n" if parts else "Not measured.\n"


def _required(name: str, records: Sequence[Record]) -> str:
    (charge,) = of_group(records, CHARGE)
    said = _share(charge.derived["energy"], "{:.3g}")
    net = f"{name}: reading and deciding, charged, net: {said} J a query."
    if (again := charge.derived.get("again")) is not None and again.value is not None:
        net += f" Of {charge.case.rows} questions {again.value:.0f} have a text that was learnt from."
    return f"{requirements_table(records)}\n\n{net}"


def _over(name: str, records: Sequence[Record]) -> str:
    """Our rules' area beyond that of each baseline; empty where the records do not tell it."""
    ours = [r for r in of_group(records, VERDICT) if any(key.startswith(OVER) for key in r.derived)]
    if not ours:
        return ""
    keys = [key for key in ours[0].derived if key.startswith(OVER)]
    rows = [[record.arm.name, *(_share(record.derived[key], "{:+.2f}") for key in keys)] for record in ours]
    return markdown((f"{name}: area beyond, pt", *(key.removeprefix(OVER) for key in keys)), rows)


def _promises(records: Sequence[Record]) -> str:
    """Certified thresholds on the test questions; empty where none are set apart."""
    found = of_group(records, PROMISE)
    if not found:
        return ""
    above, saved = found[0].metrics["above"], found[0].metrics["saved"]
    if above.median is None or saved.median is None:
        return f"On the test questions: {above.reason}."
    kept = sum(sample >= 0 for sample in above.samples)
    return (
        f"On the test questions: kept by {kept} of {len(above.samples)} certified thresholds, "
        f"median {above.median:+.2f} points above the target, {saved.median:.1%} of the joules saved."
    )


def _pressures(name: str, records: Sequence[Record]) -> str:
    """Each pressure, level by level; empty where none was played."""
    rows = [
        [
            f"{record.arm.name}: {record.arm.note}",
            f"{record.derived['pressure'].value:.3g}",
            f"{record.derived['most_tokens'].value:.0f}",
            f"{record.derived['tokens'].value:.1f}",
            f"{record.derived['accuracy'].value:.1%}",
            _share(record.derived["lost"], "{:.1f}"),
            _share(record.derived["energy"], "{:.3g}"),
            f"{record.derived['beyond'].value:.1%}",
        ]
        for record in of_group(records, PRESSURE)
    ]
    header = (
        "pressure",
        "tokens allowed",
        "tokens chosen",
        "right",
        "points given up",
        "J/question",
        "beyond",
    )
    return markdown((f"{name} under", *header), rows) if rows else ""


def worth(records: Sequence[Record]) -> str:
    """Whether the joules were measured, and where they are from."""
    energy = records[0].derived["energy"]
    return f"Joules {'measured' if energy.measured else 'NOT MEASURED here'}: {energy.source}."


def _verdicts(name: str, records: Sequence[Record]) -> str:
    questions, judged = records[0].case.rows, of_group(records, VERDICT)
    in_joules = all("joules_gap" in record.derived for record in judged)
    header = (
        f"{name}, {questions} questions",
        "joules saved at −0.5 pt",
        "gap to oracle closed",
        *(["gap in joules closed"] if in_joules else []),
        "mean accuracy along joules",
        "over random mix, pt",
        "over agreement, pt",
    )
    rows = [
        [
            record.arm.name,
            _share(record.derived["saved"], "{:.1%}"),
            _share(record.derived["gap"], "{:.0%}"),
            *([_share(record.derived["joules_gap"], "{:.0%}")] if in_joules else []),
            _share(record.derived["area"], "{:.2%}"),
            _share(record.derived["over_mix"], "{:+.2f}"),
            _share(record.derived["over_agreement"], "{:+.2f}"),
        ]
        for record in judged
    ]
    return markdown(header, rows)


def _points(name: str, records: Sequence[Record], *, brief: bool = False) -> str:
    """Every point of rules whose knobs are no prices; `brief`: without the many pairs that may agree."""
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
        if not record.arm.note.endswith(PRICED) and not (brief and record.arm.name.startswith("agreement"))
    ]
    return markdown(header, rows)


def _categories(name: str, records: Sequence[Record]) -> str:
    """Accuracy and joules of a question, by category; empty where questions have none."""
    cells: dict[str, dict[str, str]] = {}
    for record in of_group(records, CATEGORY):
        right, spent = (fmean(record.metrics[key].samples) for key in ("accuracy", "energy_j"))
        cells.setdefault(record.arm.name, {})[record.arm.note] = f"{right:.0%}, {spent:.2g} J"
    if not cells:
        return ""
    categories = list(next(iter(cells.values())))
    rows = [[rule, *(found[category] for category in categories)] for rule, found in cells.items()]
    return markdown((f"{name}: right, J/question", *categories), rows)


def _checks(name: str, records: Sequence[Record]) -> str:
    """Brier score and AUROC where the records tell them."""
    checks = of_group(records, CHECK)
    told = {
        "ece": ("ECE, 10 bins", "{:.3f}"),
        "brier": ("Brier score", "{:.3f}"),
        "auroc": ("AUROC", "{:.3f}"),
        "covered": ("within the bound for nine of ten", "{:.1%}"),
    }
    told = {key: words for key, words in told.items() if all(key in check.metrics for check in checks)}
    rows = [
        [
            check.arm.name,
            *(_mean(check.metrics[key], form) for key, (_, form) in told.items()),
            str(len(check.metrics["ece"].samples)),
        ]
        for check in checks
    ]
    return markdown((f"{name}: estimates of an arm", *(words for words, _ in told.values()), "seeds"), rows)


def _mean(metric: Metric, form: str) -> str:
    """Over seeds; why not, where it is not defined."""
    return form.format(fmean(metric.samples)) if metric.samples else f"not defined: {metric.reason}"


def _unseen(name: str, records: Sequence[Record]) -> str:
    """Each category by what other tasks taught; empty where none was left out."""
    rows = [
        [
            f"{record.arm.name}: {record.arm.note or 'all of them'}",
            f"{record.derived['questions'].value:.0f}",
            _share(record.derived["accuracy"], "{:.1%}"),
            _share(record.derived["lost"], "{:+.1f}"),
            _share(record.derived["saved"], "{:.1%}"),
            f"{record.derived['outside'].value:.1%}",
            _share(record.derived["ece"], "{:.3f}"),
            _share(record.derived["excess"], "{:+.1f}"),
        ]
        for record in of_group(records, UNSEEN)
    ]
    header = (
        "questions",
        "right",
        "points lost against the best fixed arm",
        "of its joules saved",
        "out of reach: by that arm",
        "ECE of the chosen arm",
        "points believed beyond those right",
    )
    return markdown((f"{name}: tasks that nothing was learnt from", *header), rows) if rows else ""


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
        f"violated in {_share(values['violated'], '{:.1%}')} of those "
        "(as if resplits of the same questions were independent: the interval is too narrow), "
        f"{values['saved'].value:.1%} of the strongest arm's joules saved."
    )
