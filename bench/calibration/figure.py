"""The picture of a calibration: accuracy against joules by category, hull, fit and the rule's own curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.calibration.fit import Finding
from bench.calibration.induction import prices
from bench.calibration.log import Trace
from bench.calibration.price import held_out
from engine.errors import TokenjouleError
from engine.plot import check_plot
from engine.stop.rule import StoppingRule

# Okabe and Ito's palette for colour-blind readers.
BUDGETS, HULL, FIT, RULE, STAR = "#999999", "#000000", "#56B4E9", "#D55E00", "#0072B2"
_COLUMNS = 4


def draw(findings: Sequence[Finding], traces: dict[str, list[Trace]], rule: StoppingRule, path: Path) -> None:
    """Write the picture. Raises `TokenjouleError` where it cannot."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-len(findings) // _COLUMNS)
    figure = Figure(figsize=(3.4 * min(len(findings), _COLUMNS), 0.8 + 2.9 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, found in enumerate(findings, 1):
        axes = figure.add_subplot(lines, min(len(findings), _COLUMNS), place)
        _panel(axes, found, traces[found.category], rule)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        f"{rule.model} {rule.quantization}: accuracy against joules of a question; {rule.energy_source}",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _panel(axes: Any, found: Finding, traces: Sequence[Trace], rule: StoppingRule) -> None:
    joules, accuracy = found.grid.energy_j.mean(axis=0), found.grid.correct.mean(axis=0)
    axes.plot(joules, accuracy, "o", ms=3, color=BUDGETS, label="stopped after 0, 1, … steps")
    axes.plot(found.hull.energy_j, found.hull.accuracy, "-", lw=1, color=HULL, label="concave hull")
    if found.saturating is not None:
        grid = np.linspace(joules.min(), joules.max(), 100)
        curve = [found.saturating.accuracy(float(at)) for at in grid]
        axes.plot(grid, curve, ":", lw=1.2, color=FIT, label="saturating fit")
    at = [float(price) for price in prices(found.grid, 12)]
    outcomes = held_out(traces, {found.category: found.axes}, at)
    axes.plot(
        [outcome.energy_j.mean() for outcome in outcomes],
        [outcome.correct.mean() for outcome in outcomes],
        "-",
        lw=1.2,
        color=RULE,
        label="marginal value, held out, by price",
    )
    axes.plot(
        found.held_out.energy_j.mean(),
        found.held_out.correct.mean(),
        "*",
        ms=10,
        color=STAR,
        label=f"at {rule.price:.3g} points/J",
    )
    axes.set_title(found.category, fontsize=9, loc="left")
    axes.set_xlabel("J", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
