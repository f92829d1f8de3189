"""Accuracy against joules: the front of every rule, fixed arms and the oracle; a panel for each study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.calibration.hull import hull
from bench.experiments import picture
from bench.experiments.point_names import name_points
from bench.record import Record
from bench.routing.played import Kind
from bench.routing.record import POINT, of_group, studies


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the picture. Raises `TokenjouleError` where it cannot."""
    found = studies(records)

    def fill(figure: Any) -> None:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, these) in zip(panels, found.items(), strict=True):
            _panel(axes, name, these)
        names = panels[0].get_legend_handles_labels()
        figure.legend(*names, fontsize=7, frameon=False, loc="outside right center")

    measured = all(record.derived["energy"].measured for record in of_group(records, POINT))
    said = "Joules measured" if measured else "Joules NOT MEASURED here: the records say where they are from"
    stamp = records[0].stamp
    below = f"{said}. Lines: hulls, mixtures at random. {stamp.utc[:10]}, {(stamp.commit or 'unknown')[:9]}."
    size = (5.2 * len(found) + 2.0, 4.6)
    title = "Routers: right answers against joules, on questions that nothing was fitted to"
    picture.finish(path, size, fill, title, picture.wrapped(below, int(size[0] * 19)))


def _panel(axes: Any, name: str, records: Sequence[Record]) -> None:
    from matplotlib.ticker import PercentFormatter

    points = of_group(records, POINT)
    rules = list(dict.fromkeys(record.arm.name for record in points))
    named: list[tuple[float, float, str]] = []
    style = picture.styles(rules)
    strongest = max(
        (record for record in points if record.arm.engine == Kind.FIXED),
        key=lambda record: record.derived["accuracy"].value or 0.0,
    )
    style[strongest.arm.name] = {"color": "#555555", "marker": "s"}
    widest = 1.15 * (strongest.derived["energy"].value or 0.0)
    for rule in rules:
        these = [record for record in points if record.arm.name == rule]
        joules = [record.derived["energy"].value or 0.0 for record in these]
        right = [record.derived["accuracy"].value or 0.0 for record in these]
        ours = these[0].arm.engine == Kind.OURS
        fixed = these[0].arm.engine == Kind.FIXED
        label = "fixed arms; line: their random mix" if fixed else rule
        axes.plot(joules, right, linestyle="", ms=6 if ours else 4, label=label, **style[rule])
        if these[0].arm.engine != Kind.ORACLE and len(these) > 1:
            edge = hull(joules, right)
            axes.plot(edge.energy_j, edge.accuracy, lw=1.6 if ours else 0.8, color=style[rule]["color"])
        if fixed:
            named = [(x, y, record.arm.note) for record, x, y in zip(these, joules, right, strict=True)]
    axes.set_xlim(0, widest)
    name_points(axes, named)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"{name}, {records[0].case.rows} questions", fontsize=9, loc="left")
    axes.set_xlabel("J per question", fontsize=8)
    axes.set_ylabel("right answers", fontsize=8)
