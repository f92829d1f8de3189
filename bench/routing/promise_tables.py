"""Tables of what was told beforehand against what came: estimates, certificates, limits."""

from collections.abc import Sequence
from statistics import fmean

from bench.record import Metric, Record
from bench.routing.record import CERTIFICATE, CHECK, PRESSURE, PROMISE, UNSEEN, of_group
from bench.routing.requirements import shown
from bench.tables import markdown


def promises(records: Sequence[Record]) -> str:
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


def pressures(name: str, records: Sequence[Record]) -> str:
    """Each pressure, level by level; empty where none was played."""
    rows = [
        [
            f"{record.arm.name}: {record.arm.note}",
            f"{record.derived['pressure'].value:.3g}",
            f"{record.derived['most_tokens'].value:.0f}",
            f"{record.derived['tokens'].value:.1f}",
            f"{record.derived['accuracy'].value:.1%}",
            shown(record.derived["lost"], "{:.1f}"),
            shown(record.derived["energy"], "{:.3g}"),
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


def checks(name: str, records: Sequence[Record]) -> str:
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


def unseen(name: str, records: Sequence[Record]) -> str:
    """Each category by what other tasks taught; empty where none was left out."""
    rows = [
        [
            f"{record.arm.name}: {record.arm.note or 'all of them'}",
            f"{record.derived['questions'].value:.0f}",
            shown(record.derived["accuracy"], "{:.1%}"),
            shown(record.derived["lost"], "{:+.1f}"),
            shown(record.derived["saved"], "{:.1%}"),
            f"{record.derived['outside'].value:.1%}",
            shown(record.derived["ece"], "{:.3f}"),
            shown(record.derived["excess"], "{:+.1f}"),
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


def certificate(records: Sequence[Record]) -> str:
    """How often a certified threshold was kept on questions that it was not certified by."""
    (found,) = of_group(records, CERTIFICATE)
    values = found.derived
    below, delta = values["target_below"].value or 0.0, values["delta"].value or 0.0
    resplits = round(values["resplits"].value or 0)
    said = f"Certified {100 * below:.0f} points below the strongest, δ = {delta:g}, {resplits} resplits: "
    if values["violated"].value is None:
        return said + "no threshold could be certified."
    return (
        f"{said}given in {values['given'].value:.0%}, "
        f"violated in {shown(values['violated'], '{:.1%}')} of those "
        "(as if resplits of the same questions were independent: the interval is too narrow), "
        f"{values['saved'].value:.1%} of the strongest arm's joules saved."
    )
