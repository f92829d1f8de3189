"""What has to hold of the router on the test bed, against what was found; from records and nothing else."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

from bench.record import Record, Value
from bench.routing.cascade import CHOSEN as CASCADE_CHOSEN
from bench.routing.cascade import NAME as CASCADE
from bench.routing.escalated import NAME as ESCALATED
from bench.routing.estimates import OURS
from bench.routing.record import CERTIFICATE, CHECK, OVER, POINT, PRESSURE, VERDICT
from bench.routing.routed import CHOSEN as ROUTER_CHOSEN
from bench.routing.routed import NAMES
from bench.tables import markdown

LOST, SAVED, GAP, ECE, COVERED = 0.5, 0.5, 0.5, 0.03, (0.87, 0.93)
LEAST = 2000  # questions, that a calibration error is told of

# What, required (or nothing), found, whether it holds; None: cannot be said.
Row = tuple[str, str, str, bool | None]


def requirements_table(records: Sequence[Record]) -> str:
    """Of the records of one study."""
    said = {True: "yes", False: "NO", None: "not told"}
    rows = [
        [what, required, found, said[holds] if required else ""]
        for what, required, found, holds in requirements(records)
    ]
    return markdown(("", "required", "found", "holds"), rows)


def requirements(records: Sequence[Record]) -> Iterator[Row]:
    """Shares have to hold by their value, beside which the interval stands; differences with certainty.

    The gap to the oracle that has to be closed is the one in accuracy, against an oracle that sees every
    answer as it was sampled, luck included. Beside it stands, with nothing required, the one in joules.
    """
    verdicts = {record.arm.name: record.derived for record in records if record.group == VERDICT}
    points = {record.arm.name: record.derived for record in records if record.group == POINT}
    for name in (CASCADE_CHOSEN, ROUTER_CHOSEN):
        lost, saved = points[name]["lost"], points[name]["saved"]
        holds = None if None in (lost.value, saved.value) else _at_least(saved, SAVED) and lost.value <= LOST  # type: ignore[operator]
        told = f"{shown(saved, '{:.1%}')} at {shown(lost, '{:.2f}')} points lost"
        yield f"{name}: strongest arm's joules saved", f"≥ 50 % within {LOST} points", told, holds
    fronts = {name: verdicts[name] for name in (CASCADE, ESCALATED, NAMES[OURS]) if name in verdicts}
    for name, judged in fronts.items():
        gap = judged["gap"]
        what = f"{name}: gap to the oracle closed, in accuracy at the strongest arm's joules"
        yield what, "≥ 50 %", shown(gap, "{:.0%}"), _at_least(gap, GAP)
        if "joules_gap" in judged:
            what = f"{name}: gap to the oracle closed, in joules within {LOST} points of the strongest arm"
            yield what, "", shown(judged["joules_gap"], "{:.0%}"), None
    for name, judged in fronts.items():
        for key in (key for key in judged if key.startswith(OVER)):
            over, what = judged[key], f"{name}: area over {key.removeprefix(OVER)}"
            yield what, "> 0 points", shown(over, "{:+.2f}"), None if over.low is None else over.low > 0
    yield from _checks(records)
    for record in (record for record in records if record.group == CERTIFICATE):
        violated, delta = record.derived["violated"], record.derived["delta"].value
        holds = None if violated.low is None or delta is None else violated.low <= delta
        what = "certificate violated (resplits of the same questions, as if independent)"
        yield what, f"lower bound ≤ {delta:g}", shown(violated, "{:.1%}"), holds
    yield from _pressures(records)


def _checks(records: Sequence[Record]) -> Iterator[Row]:
    checks = [record for record in records if record.group == CHECK]
    questions = checks[0].case.rows
    enough = questions >= LEAST
    worst = max(checks, key=lambda record: fmean(record.metrics["ece"].samples))
    error = fmean(worst.metrics["ece"].samples)
    found = f"{error:.3f} ({worst.arm.name}), n = {questions}"
    yield "calibration error, worst arm", f"≤ {ECE}, n ≥ {LEAST}", found, error <= ECE if enough else None
    shares = {record.arm.name: fmean(record.metrics["covered"].samples) for record in checks}
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    holds = COVERED[0] <= shares[low] and shares[high] <= COVERED[1]
    found = f"{shares[low]:.1%} ({low}) to {shares[high]:.1%} ({high})"
    yield "within the bound for nine of ten", "87 to 93 %", found, holds


def _pressures(records: Sequence[Record]) -> Iterator[Row]:
    pressed = [record for record in records if record.group == PRESSURE]
    for name in dict.fromkeys(record.arm.name for record in pressed):
        these = [record.derived for record in pressed if record.arm.name == name]
        tokens = [found["most_tokens"].value or 0.0 for found in these]
        chosen = [found["tokens"].value or 0.0 for found in these]
        falling = all(later <= before for before, later in pairwise(tokens)) and tokens[-1] < tokens[0]
        falling = falling and all(mean <= most for mean, most in zip(chosen, tokens, strict=True))
        beyond = max(found["beyond"].value or 0.0 for found in these)
        found = f"{tokens[0]:.0f} to {tokens[-1]:.0f}; {beyond:.1%} at most"
        yield (
            f"{name}: tokens allowed; answers beyond a limit",
            "falling, and none chosen beyond; ≤ 10 %",
            found,
            falling and beyond <= 0.1,
        )


def _at_least(value: Value, least: float) -> bool | None:
    return None if value.value is None else value.value >= least


def shown(value: Value, form: str) -> str:
    """With its interval where it has one; empty where it is not defined."""
    if value.value is None:
        return ""
    if value.low is None or value.high is None:
        return form.format(value.value)
    return f"{form.format(value.value)} ({form.format(value.low)} to {form.format(value.high)})"
