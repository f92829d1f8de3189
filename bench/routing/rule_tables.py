"""Tables of what each rule chose: areas, joules saved, single points, categories."""

from collections.abc import Sequence
from statistics import fmean

from bench.record import Record
from bench.routing.record import CATEGORY, OVER, POINT, PRICED, VERDICT, of_group
from bench.routing.requirements import shown
from bench.tables import markdown


def over(name: str, records: Sequence[Record]) -> str:
    """Our rules' area beyond that of each baseline; empty where the records do not tell it."""
    ours = [r for r in of_group(records, VERDICT) if any(key.startswith(OVER) for key in r.derived)]
    if not ours:
        return ""
    keys = [key for key in ours[0].derived if key.startswith(OVER)]
    rows = [[record.arm.name, *(shown(record.derived[key], "{:+.2f}") for key in keys)] for record in ours]
    return markdown((f"{name}: area beyond, pt", *(key.removeprefix(OVER) for key in keys)), rows)


def verdicts(name: str, records: Sequence[Record]) -> str:
    """Each rule along all of its prices."""
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
            shown(record.derived["saved"], "{:.1%}"),
            shown(record.derived["gap"], "{:.0%}"),
            *([shown(record.derived["joules_gap"], "{:.0%}")] if in_joules else []),
            shown(record.derived["area"], "{:.2%}"),
            shown(record.derived["over_mix"], "{:+.2f}"),
            shown(record.derived["over_agreement"], "{:+.2f}"),
        ]
        for record in judged
    ]
    return markdown(header, rows)


def points(name: str, records: Sequence[Record], *, brief: bool = False) -> str:
    """Every point of rules whose knobs are no prices; `brief`: without the many pairs that may agree."""
    header = (f"{name}: point", "right", "J/question", "points lost", "joules saved")
    rows = [
        [
            f"{record.arm.name}: {record.arm.note}".removesuffix(": "),
            shown(record.derived["accuracy"], "{:.2%}"),
            shown(record.derived["energy"], "{:.3g}"),
            shown(record.derived["lost"], "{:.2f}"),
            shown(record.derived["saved"], "{:.1%}"),
        ]
        for record in of_group(records, POINT)
        if not record.arm.note.endswith(PRICED) and not (brief and record.arm.name.startswith("agreement"))
    ]
    return markdown(header, rows)


def categories(name: str, records: Sequence[Record]) -> str:
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
