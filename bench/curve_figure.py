"""The picture of an operating curve: predicted beside seen, and joules against each of the three sizes."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from engine.energy.curve import OperatingCurve
from engine.energy.curve_fit import Sample, dealt
from engine.errors import TokenjouleError
from engine.plot import check_plot

# Okabe and Ito's palette for colour-blind readers.
FITTED, UNSEEN, LINE = "#999999", "#D55E00", "#0072B2"
_POINTS = 100
_AXES = {"prompt_tokens": "prompt tokens", "new_tokens": "new tokens a row", "rows": "rows"}


def draw_curve(curve: OperatingCurve, samples: Sequence[Sample], path: Path) -> None:
    """Write the picture. `samples` in the order they ran. Raises `TokenjouleError` where it cannot."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    parts = dealt(samples)
    shown = {"fitted, or for the band": [*parts["fit"], *parts["band"]], "held out": parts["held out"]}
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _draw_seen(panels[0, 0], curve, shown)
    sizes = {name: round(median(getattr(sample, name) for sample in samples)) for name in _AXES}
    reference = Sample(**sizes, energy_j=0.0, elapsed_s=0.0)
    for axes, name in zip(panels.flat[1:], _AXES, strict=True):
        _draw_against(axes, curve, shown, reference, name)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axes in panels.flat:
        axes.xaxis.set_major_formatter(plain)
        axes.yaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False, loc="best")
    key, tested = curve.fits, curve.tested
    worth = "measured" if curve.measured else "NOT MEASURED"
    figure.suptitle(
        f"{key.model} {key.quantization}, {key.backend} on {key.device}: joules {worth} ({key.source}); "
        f"held out {tested.energy_mape:.1%} off, {tested.energy_coverage:.0%} inside the 95 % band",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _draw_seen(axes: Any, curve: OperatingCurve, shown: dict[str, list[Sample]]) -> None:
    """How far what was seen is from what was predicted, and the band around that."""
    everything = [sample for part in shown.values() for sample in part]
    expected = np.array(sorted(curve.energy.expected(sample.features) for sample in everything))
    grid = np.geomspace(expected[0], expected[-1], _POINTS)
    half = curve.energy.factor * (curve.energy.floor + curve.energy.share * grid)
    axes.fill_between(grid, -100 * half / grid, 100 * half / grid, color=LINE, alpha=0.15, lw=0)
    axes.axhline(0, color=LINE, lw=1, label="predicted, and its 95 % band")
    for (name, part), colour in zip(shown.items(), (FITTED, UNSEEN), strict=True):
        at = np.array([curve.energy.expected(sample.features) for sample in part])
        seen = np.array([sample.energy_j for sample in part])
        axes.plot(at, 100 * (seen - at) / at, "o", ms=3, color=colour, label=name)
    off = 100 * np.array([abs(s.energy_j / curve.energy.expected(s.features) - 1) for s in everything])
    edge = 1.3 * float(max(np.quantile(off, 0.98), 100 * half[-1] / grid[-1]))  # a few would flatten the rest
    axes.set_ylim(-edge, edge)
    axes.set_title(f"{int((off > edge).sum())} of {len(off)} requests lie outside", fontsize=8, loc="left")
    axes.set_xscale("log")
    axes.set_xlabel("J predicted", fontsize=9)
    axes.set_ylabel("seen − predicted, %", fontsize=9)


def _draw_against(
    axes: Any, curve: OperatingCurve, shown: dict[str, list[Sample]], reference: Sample, name: str
) -> None:
    """J against one size, the others at their medians; what was seen is scaled to those by the curve."""
    low, high = getattr(curve.tested, name)
    grid = sorted({round(size) for size in np.geomspace(low, high, _POINTS)})
    lines = np.array([curve.energy.request(_at(reference, name, size).features) for size in grid])
    axes.fill_between(grid, lines[:, 1], lines[:, 2], color=LINE, alpha=0.15, lw=0)
    axes.plot(grid, lines[:, 0], color=LINE, lw=1.2, label="predicted, and its 95 % band")
    for (part, samples), colour in zip(shown.items(), (FITTED, UNSEEN), strict=True):
        at = [getattr(sample, name) for sample in samples]
        expected = [curve.energy.expected(_at(reference, name, size).features) for size in at]
        scaled = [
            sample.energy_j * there / curve.energy.expected(sample.features)
            for sample, there in zip(samples, expected, strict=True)
        ]
        axes.plot(at, scaled, "o", ms=3, color=colour, label=part)
    axes.set_xscale("log")
    axes.set_yscale("log")
    others = [f"{getattr(reference, other)} {text}" for other, text in _AXES.items() if other != name]
    axes.set_xlabel(_AXES[name], fontsize=9)
    axes.set_ylabel("J", fontsize=9)
    axes.set_title(f"seen joules scaled to {' and '.join(others)}", fontsize=8, loc="left")


def _at(reference: Sample, name: str, size: int) -> Sample:
    sizes = {axis: getattr(reference, axis) for axis in _AXES} | {name: size}
    return Sample(**sizes, energy_j=0.0, elapsed_s=0.0)
