"""The main picture: accuracy against joules, the hull of fixed budgets, every arm and the oracles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.arena.arms import MARGINAL
from bench.arena.compare import Arena, Line
from bench.calibration.hull import hull
from bench.experiments.point_names import name_points
from engine.errors import TokenjouleError
from engine.plot import check_plot

# Okabe and Ito's palette for colour-blind readers.
BUDGETS, HULL, RULE, ORACLE, CONTROL, OTHER = "#999999", "#000000", "#D55E00", "#009E73", "#CC79A7", "#0072B2"
_COLUMNS = 3
_LEAST_SPAN = 0.05  # of an axis of accuracies


def draw(arenas: Sequence[Arena], title: str, path: Path) -> None:
    """Write the picture, a panel for each arena. Raises `TokenjouleError` where it cannot."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(arenas), _COLUMNS)
    lines = -(-len(arenas) // columns)
    figure = Figure(figsize=(4.6 * columns, 1.2 + 3.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, arena in enumerate(arenas, 1):
        _panel(figure.add_subplot(lines, columns, place), arena, named=place == 1)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    try:
        figure.savefig(path, dpi=140)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _panel(axes: Any, arena: Arena, *, named: bool) -> None:
    from matplotlib.ticker import PercentFormatter

    joules, accuracy = arena.grid.energy_j.mean(axis=0), arena.grid.correct.mean(axis=0)
    axes.plot(joules, accuracy, ".", ms=4, color=BUDGETS, label="fixed budgets of 0, 1, … steps")
    corners = hull(joules, accuracy)
    axes.plot(corners.energy_j, corners.accuracy, "-", lw=1, color=HULL, label="their hull")
    ours = sorted(
        (line.score.energy_j, line.score.accuracy) for line in arena.lines if line.name.startswith(MARGINAL)
    )
    if len(ours) > 1:
        axes.plot(*zip(*ours, strict=True), "-o", ms=4, lw=1.2, color=RULE, label="marginal value, by price")
    told: set[str] = set()
    names: list[tuple[float, float, str]] = []
    for line in arena.lines:
        kind, style = _kind(line)
        at = (line.score.energy_j, line.score.accuracy)
        if kind:
            axes.plot(*at, linestyle="", label=None if kind in told else kind, **style)
            told.add(kind)
        if named and kind and not line.name.startswith("oracle"):
            names.append((*at, "the rule" if line.name == MARGINAL else line.name))
    low, high = axes.get_ylim()
    if high - low < _LEAST_SPAN:  # or a single question fills the panel
        middle = min((low + high) / 2, 1 - _LEAST_SPAN / 3)
        low, high = middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2
    axes.set_ylim(low, min(high, 1 + 0.1 * (1 - low)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    name_points(axes, names)
    axes.set_title(f"{arena.category}, {len(arena.grid.clusters)} questions", fontsize=9, loc="left")
    axes.set_xlabel("J per question", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _kind(line: Line) -> tuple[str, dict[str, Any]]:
    """What the legend calls an arm, and how it is drawn; "" for what has a line of its own."""
    if line.name == MARGINAL:
        return "marginal value, default price", {"marker": "*", "ms": 12, "color": RULE}
    if line.name.startswith("oracle"):
        if line.name.endswith("best stop"):  # often the same point as the first correct one
            return line.name, {"marker": "o", "ms": 10, "mfc": "none", "color": ORACLE}
        return line.name, {"marker": "v" if "stably" in line.name else "^", "ms": 6, "color": ORACLE}
    if line.name.startswith(("permuted", "random")):
        return "permuted and random stops", {"marker": "x", "ms": 6, "color": CONTROL}
    if line.played is not None and not line.name.startswith(MARGINAL):
        return "other policies", {"marker": "s", "ms": 4, "color": OTHER}
    return "", {}
