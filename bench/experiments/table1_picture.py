"""The picture of Table 1: accuracy against joules a question, all clusters together and each by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.calibration.hull import hull
from bench.experiments import picture
from bench.experiments.table1_table import ALL, BASE, Cell, Column, cell, clusters_of

_SMOOTH = 60


def draw(found: Sequence[Column], path: Path, worth: str, below: str) -> None:
    """`worth`: what the joules and weights are; `below`: provenance. Raises `TokenjouleError`."""
    style = picture.styles([column.technique for column in found])
    base = next((column for column in found if column.technique == BASE), None)
    names = clusters_of(found)
    panels = [ALL, *(name for name in names if name != ALL)]

    def fill(figure: Any) -> None:
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for place, cluster in zip(axes, panels, strict=False):
            _panel(place, cluster, [(c, cell(c, base, cluster)) for c in found], style)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            axes[0].legend(handles, labels, fontsize=8, frameon=False, loc="best")

    rows = -(-len(panels) // min(len(panels), 3))
    picture.finish(path, (11, 1.2 + 2.9 * rows), fill, f"Table 1: accuracy against joules\n{worth}", below)


def _panel(axes: Any, cluster: str, cells: Sequence[tuple[Column, Cell | None]], style: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    drawn: list[tuple[float, float]] = []
    for column, made in cells:
        if made is None or made.accuracy.value is None or not made.energy_j.value:
            continue
        drawn.append((made.energy_j.value, made.accuracy.value))
        axes.errorbar(
            made.energy_j.value,
            made.accuracy.value,
            xerr=_reach(made.energy_j),
            yerr=_reach(made.accuracy),
            ls="none",
            ms=6,
            capsize=2,
            label=column.technique,
            **style[column.technique],
        )
    if not drawn:
        picture.empty(axes, f"{cluster}: {picture.NOT_MEASURED}")
        return
    corners = hull(*zip(*drawn, strict=True))
    if len(corners.points) > 1:
        # What mixing two neighbours reaches: straight in joules, so bent on this axis.
        along = np.geomspace(corners.energy_j[0], corners.energy_j[-1], _SMOOTH)
        reached = [corners.accuracy_at(min(joules, corners.energy_j[-1])) for joules in along]
        axes.plot(along, reached, "-", lw=1, color="#000000", zorder=1, label="hull: mixtures of two")
    most = max(made.questions for _, made in cells if made is not None)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.03, 1.03)  # whole markers at both ends
    axes.set_title(f"{cluster}, {most} questions", fontsize=9)
    axes.set_xlabel("J per question", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)


def _reach(value: Any) -> Any:
    if value.low is None:
        return None
    return [[max(value.value - value.low, 0)], [max(value.high - value.value, 0)]]
