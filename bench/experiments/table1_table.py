"""Table 1 from its lines: the paper's form, our columns beside it, and the paper's ratios beside ours.

A technique's accuracy is over the questions that were answered or read wrong; censored ones are counted
apart, their joules stay in every mean. Changes are paired: on questions that both columns were asked, in the
same resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.benchmarks.clusters import UNASSIGNED, clusters
from bench.experiments.bootstrap import Interval, Resampled
from bench.experiments.table1_paper import NOTES, PAPER, SMALL, recomputed
from bench.experiments.table1_record import Arm, Outcome
from bench.tables import markdown
from engine.errors import UsageError

BASE = "direct"
ALL = "all"


@dataclass(frozen=True)
class Column:
    """One technique: its arms (of one sameness) and what they gave, by question."""

    technique: str
    arm: Arm
    outcomes: Mapping[str, Outcome]

    def asked(self, cluster: str) -> list[Outcome]:
        """Of a cluster, or ALL; without questions that could not be asked."""
        return [o for o in self.outcomes.values() if o.error is None and cluster in (ALL, o.cluster)]


@dataclass(frozen=True)
class Cell:
    """What one technique does in one cluster. Changes in %, against BASE; tokens and seconds per question."""

    questions: int
    censored: int
    unparsed: int
    forced: int
    accuracy: Interval
    energy_j: Interval
    joules_per_correct: Interval
    accuracy_change: Interval
    energy_change: Interval
    new_tokens: float
    elapsed_s: float


def columns(arms: Sequence[Arm], outcomes: Iterable[Outcome]) -> tuple[list[Column], list[str]]:
    """One column a technique, of the settings that were measured last; and what that leaves out, in words.

    Raises `UsageError` where there is nothing.
    """
    by_arm: dict[str, list[Outcome]] = {arm.id: [] for arm in arms}
    for outcome in outcomes:
        by_arm[outcome.arm].append(outcome)
    latest: dict[str, Arm] = {arm.technique: arm for arm in arms if by_arm[arm.id]}
    found, left_out = [], []
    for technique, newest in latest.items():
        same = [arm for arm in arms if arm.technique == technique and arm.sameness == newest.sameness]
        found.append(Column(technique, newest, {o.id: o for arm in same for o in by_arm[arm.id]}))
        others = sum(len(by_arm[a.id]) for a in arms if a.technique == technique) - sum(
            len(by_arm[a.id]) for a in same
        )
        if others:
            left_out.append(f"{technique}: {others} lines with other settings are left out")
    if not found:
        raise UsageError("there are no questions of Table 1 in the file")
    order = [BASE, "large", "vote", "vote-independent", "cot", "cot+stop"]
    return sorted(found, key=lambda column: order.index(column.technique)), left_out


def clusters_of(found: Sequence[Column]) -> list[str]:
    """Those that have questions, in the paper's order, what no cluster takes, and all together."""
    present = {outcome.cluster for column in found for outcome in column.asked(ALL)}
    return [name for name in (*clusters(), UNASSIGNED) if name in present] + [ALL]


def cell(column: Column, base: Column | None, cluster: str) -> Cell | None:
    """None where the technique was asked nothing in the cluster."""
    asked = column.asked(cluster)
    if not asked:
        return None
    resampled = Resampled(len(asked))
    judged = [float(not o.censored) for o in asked]
    right = [float(bool(o.correct)) for o in asked]
    spent, known = _joules(asked)
    pairs = [] if base is None else [(base.outcomes[o.id], o) for o in asked if _there(base, o.id)]
    accuracy_change, energy_change = _changes(pairs)
    nothing = Interval(None)
    return Cell(
        questions=len(asked),
        censored=sum(o.censored for o in asked),
        unparsed=sum(o.unparsed for o in asked),
        forced=sum(o.forced for o in asked),
        accuracy=resampled.interval(lambda s: s[0] / s[1], right, judged),
        energy_j=resampled.interval(lambda s: s[0] / s[1], spent, [1.0] * len(asked)) if known else nothing,
        joules_per_correct=resampled.interval(lambda s: s[0] / s[1], spent, right) if known else nothing,
        accuracy_change=accuracy_change,
        energy_change=energy_change,
        new_tokens=sum(o.new_tokens for o in asked) / len(asked),
        elapsed_s=sum(o.elapsed_s for o in asked) / len(asked),
    )


def _there(base: Column, question: str) -> bool:
    return question in base.outcomes and base.outcomes[question].error is None


def _joules(asked: Sequence[Outcome]) -> tuple[list[float], bool]:
    """Joules of each question, and whether all are known: a mean over some would be of other questions."""
    return [o.energy_j or 0.0 for o in asked], all(o.energy_j is not None for o in asked)


def _changes(pairs: Sequence[tuple[Outcome, Outcome]]) -> tuple[Interval, Interval]:
    """Accuracy and energy of the second against the first, in %."""
    if not pairs:
        return Interval(None), Interval(None)
    before, after = [list(side) for side in zip(*pairs, strict=True)]
    resampled = Resampled(len(pairs))
    sides = [
        [float(value) for value in values]
        for side in (before, after)
        for values in ([bool(o.correct) for o in side], [not o.censored for o in side])
    ]
    accuracy = resampled.interval(lambda s: ((s[2] / s[3]) / (s[0] / s[1]) - 1) * 100, *sides)
    (old, known), (new, also) = _joules(before), _joules(after)
    energy = Interval(None)
    if known and also:
        energy = resampled.interval(lambda s: (s[1] / s[0] - 1) * 100, old, new)
    return accuracy, energy


def report(found: Sequence[Column]) -> tuple[str, dict[str, object]]:
    """Markdown and plain findings."""
    base = next((column for column in found if column.technique == BASE), None)
    cells = {
        (column.technique, cluster): made
        for column in found
        for cluster in clusters_of(found)
        if (made := cell(column, base, cluster)) is not None
    }
    techniques = [column.technique for column in found]
    parts = [_paper_form(techniques, cells), _ours(techniques, cells), _beside_paper(techniques, cells)]
    told: dict[str, object] = {
        technique: {cluster: _told(made) for (name, cluster), made in cells.items() if name == technique}
        for technique in techniques
    }
    return "\n\n".join(part for part in parts if part), told


Cells = Mapping[tuple[str, str], Cell]


def _paper_form(techniques: Sequence[str], cells: Cells) -> str:
    header = ["Accuracy (change of accuracy, of energy)", "questions", "direct", "J/question"]
    others = [technique for technique in techniques if technique != BASE]
    rows = []
    for cluster in dict.fromkeys(c for _, c in cells):
        row = [cluster]
        here = cells.get((BASE, cluster))
        most = max(made.questions for (_, c), made in cells.items() if c == cluster)
        row += [str(most), _share(here.accuracy) if here else "", _plain(here.energy_j) if here else ""]
        for technique in others:
            made = cells.get((technique, cluster))
            changes = (
                "" if made is None else f"{_percent(made.accuracy_change)}, {_percent(made.energy_change)}"
            )
            row.append("" if made is None else f"{_share(made.accuracy)} ({changes})")
        rows.append(row)
    return markdown([*header, *others], rows)


def _ours(techniques: Sequence[str], cells: Cells) -> str:
    header = (
        "With 95 % intervals",
        "cluster",
        "accuracy",
        "J/question",
        "J per correct answer",
        "accuracy, %",
        "energy, %",
        "new tokens",
        "s",
        "censored",
        "unparsed",
        "forced",
    )
    rows = []
    for technique in techniques:
        for cluster in dict.fromkeys(c for _, c in cells):
            made = cells.get((technique, cluster))
            if made is None:
                continue
            rows.append(
                [
                    technique,
                    cluster,
                    _spread(made.accuracy, "{:.3f}"),
                    _spread(made.energy_j, "{:.3g}"),
                    _spread(made.joules_per_correct, "{:.3g}"),
                    _spread(made.accuracy_change, "{:+.0f}"),
                    _spread(made.energy_change, "{:+.0f}"),
                    f"{made.new_tokens:.1f}",
                    f"{made.elapsed_s:.3g}",
                    f"{made.censored} of {made.questions}",
                    str(made.unparsed),
                    str(made.forced),
                ]
            )
    return markdown(header, rows)


def _beside_paper(techniques: Sequence[str], cells: Cells) -> str:
    header = (
        "Paper, ours",
        "paper: accuracy, %",
        "by its own accuracies",
        "ours",
        "paper: energy, %",
        "ours",
    )
    rows = []
    for technique, printed in PAPER.items():
        for cluster in SMALL:
            made = cells.get((technique, cluster))
            if made is None or technique not in techniques:
                continue
            line = printed[cluster]
            rows.append(
                [
                    f"{technique}, {cluster}",
                    f"{line.accuracy_change:+.0f}",
                    f"{recomputed(cluster, technique):+.0f}",
                    _spread(made.accuracy_change, "{:+.0f}"),
                    f"{line.energy_change:+.0f}",
                    _spread(made.energy_change, "{:+.0f}"),
                ]
            )
    if not rows:
        return ""
    return "\n".join([markdown(header, rows), "", *(f"- {note}" for note in NOTES)])


def _share(value: Interval) -> str:
    return "n/a" if value.value is None else f"{value.value:.2f}"


def _plain(value: Interval) -> str:
    return "not measured" if value.value is None else f"{value.value:.3g}"


def _percent(value: Interval) -> str:
    return "n/a" if value.value is None else f"{value.value:+.0f} %"


def _spread(value: Interval, form: str) -> str:
    if value.value is None or not np.isfinite(value.value):
        return "n/a"
    text = form.format(value.value)
    if value.low is None or value.high is None:
        return text
    return f"{text} ({form.format(value.low)} to {form.format(value.high)})"


def _told(made: Cell) -> dict[str, object]:
    interval = lambda v: [v.value, v.low, v.high]  # noqa: E731
    return {
        "questions": made.questions,
        "censored": made.censored,
        "unparsed": made.unparsed,
        "forced": made.forced,
        "accuracy": interval(made.accuracy),
        "energy_j": interval(made.energy_j),
        "joules_per_correct": interval(made.joules_per_correct),
        "accuracy_change_percent": interval(made.accuracy_change),
        "energy_change_percent": interval(made.energy_change),
        "new_tokens": made.new_tokens,
        "elapsed_s": made.elapsed_s,
    }
