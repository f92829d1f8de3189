"""The picture of the attribution study: prefill errors by arm and cell, and what intervals cover."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.attribution.record import CORNER, JUDGED, WELL
from bench.attribution.score import ALONE, ARMS, INTERPOLATED, MODEL, POWER_TIME, WINDOWS
from bench.attribution.table import COVERAGE, long_prefills, of_phase
from bench.record import Record
from engine.errors import TokenjouleError
from engine.plot import check_plot

# Okabe and Ito's palette for colour-blind readers.
_COLOURS = dict(zip(ARMS, ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00"), strict=True))
_MARKERS = dict(zip(JUDGED, ("o", "s", "^"), strict=True))
_SHOWN = (MODEL, ALONE, INTERPOLATED, POWER_TIME, WINDOWS)
_LEAST = 1e-4  # what an error is drawn at when it is less


def draw_attribution(records: Sequence[Record], path: Path) -> None:
    """Write the picture. Raises `TokenjouleError` where it cannot be drawn or written."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    well, corners = of_phase(records, WELL), of_phase(records, CORNER)
    cells = list(dict.fromkeys(record.case.model for record in well))
    names = list(dict.fromkeys(record.case.model for record in corners))
    figure = Figure(figsize=(14, 10), layout="constrained")
    FigureCanvasAgg(figure)
    widths = [max(len(cells), 1), max(len(names), 1)]
    axes = figure.subplots(2, 2, sharey="row", gridspec_kw={"width_ratios": widths})
    _draw_errors(axes[0][0], well, cells, "Well-specified: prefill of 60 ms and more, one request")
    _draw_errors(axes[0][1], corners, names, "Misspecified")
    _draw_coverage(axes[1][0], well, cells, "What the model's 95 % intervals cover (gain left out)")
    _draw_coverage(axes[1][1], corners, names, "Misspecified; × refused, red: flagged")
    axes[0][0].set_ylabel("median absolute error, %")
    axes[1][0].set_ylabel("covered, %")
    drawn = [axis.get_legend_handles_labels() for axis in (axes[0][0], axes[1][0])]
    handles, labels = ([item for found in part for item in found] for part in zip(*drawn, strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7.5)
    figure.suptitle(
        "Attribution against simulated truth: no joule here was measured", fontsize=11, x=0.01, ha="left"
    )
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _draw_errors(axes: Any, records: Sequence[Record], names: Sequence[str], title: str) -> None:
    """Median of each arm's absolute errors, logarithmic; the whisker reaches to the 95th of 100."""
    for shift, arm in enumerate(_SHOWN):
        places, middles, uppers = [], [], []
        for place, name in enumerate(names):
            errors = sorted(abs(e) for r in _found(records, name, arm) for e in long_prefills(r))
            if errors:
                places.append(place + (shift - 2) * 0.14)
                middles.append(100 * max(median(errors), _LEAST))
                uppers.append(100 * max(errors[int(0.95 * (len(errors) - 1))], _LEAST))
        axes.vlines(places, middles, uppers, color=_COLOURS[arm], lw=1, alpha=0.7)
        axes.plot(places, middles, "o", ms=4, color=_COLOURS[arm], label=arm)
    axes.axhline(5, color="#999999", lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xticks(range(len(names)), [""] * len(names))


def _draw_coverage(axes: Any, records: Sequence[Record], names: Sequence[str], title: str) -> None:
    """Mean coverage of each kind of interval; the band is what is asked for."""
    axes.axhspan(*(100 * bound for bound in COVERAGE), color="#009E73", alpha=0.15, lw=0)
    for shift, judged in enumerate(JUDGED):
        places, shares = [], []
        for place, name in enumerate(names):
            covered = [
                s for r in _found(records, name, MODEL) for s in r.metrics[f"{judged}_covered"].samples
            ]
            if covered:
                places.append(place + (shift - 1) * 0.2)
                shares.append(100 * fmean(covered))
        axes.plot(
            places, shares, _MARKERS[judged], ms=4.5, color="#0072B2", alpha=0.5 + 0.2 * shift, label=judged
        )
    labels = axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    for place, (name, tick) in enumerate(zip(names, labels, strict=True)):
        verdicts = [record.derived for record in _found(records, name, MODEL)]
        if any((v["flagged"].value or 0) > 0.5 for v in verdicts):
            tick.label1.set_color("#D55E00")
        if any((v["refused"].value or 0) > 0.5 for v in verdicts):
            axes.plot([place], [50], "x", color="#D55E00", ms=9)
    axes.set_ylim(0, 103)
    axes.set_title(title, fontsize=9, loc="left")


def _found(records: Sequence[Record], name: str, arm: str) -> list[Record]:
    return [record for record in records if record.case.model == name and record.arm.name == arm]
