"""What the pictures of all figures share: a colour and a marker for each model, and where it is all from."""

import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.experiments.cell_record import label
from bench.record import Record
from engine.errors import TokenjouleError
from engine.plot import check_plot

# Okabe and Ito's palette for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP*X"
NOT_MEASURED = "not measured"


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each model, by its place; no two alike among 64."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }


def save(
    records: Sequence[Record], path: Path, size: tuple[float, float], draw: Callable[[Any], None], title: str
) -> None:
    """`draw` fills the figure; title and provenance come from here. Raises `TokenjouleError`."""
    below = provenance(records, int(size[0] * 19))
    finish(path, size, draw, f"{title}\n{worth(records)}", below)


def finish(
    path: Path, size: tuple[float, float], draw: Callable[[Any], None], title: str, below: str
) -> None:
    """A figure that `draw` fills, with its title and, small, what is to stand below. As `save` raises."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.supxlabel(below, fontsize=6.5, color="#555555", x=0.01, ha="left")
    with suppress(FileNotFoundError):
        path.unlink()  # what could not be drawn must not look like this run's picture
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def worth(records: Sequence[Record]) -> str:
    """Whether the joules were measured, and whether the weights are random."""
    energy = records[0].derived["energy"]
    kind = f"measured by {energy.source}" if energy.measured else f"NOT MEASURED: {energy.source}"
    random = [label(r) for r in records if r.case.shape_only]
    if not random:
        return f"joules {kind}"
    all_random = len(random) == len(records)
    which = "" if all_random else f" ({', '.join(dict.fromkeys(random))})"
    return f"joules {kind}; shape only: random weights{which}"


def provenance(records: Sequence[Record], width: int) -> str:
    """Device, backend, dates, commits and how it was measured, in lines that fit under a picture."""
    stamps = {record.stamp.run: record.stamp for record in records}.values()
    dates = sorted({stamp.utc[:10] for stamp in stamps})
    commits = sorted(
        {(stamp.commit or "unknown")[:9] + (" with changes" if stamp.dirty else "") for stamp in stamps}
    )
    first, dtypes = records[0], sorted({record.arm.dtype for record in records})
    text = (
        f"{first.stamp.device}, {first.stamp.cores} cores; backend {first.arm.backend}, {'/'.join(dtypes)}; "
        f"{', '.join(dates)}; commit {', '.join(commits)}. Batch 1; {first.arm.note}. Gross, where not said "
        "otherwise."
    )
    return wrapped(text, width)


def wrapped(text: str, width: int) -> str:
    """With line breaks."""
    return "\n".join(textwrap.wrap(text, width))


def whiskers(record: Record, metric: str, scale: float = 1.0) -> tuple[float, float, float] | None:
    """(mean, below, above) of a derived value; zeros without an interval, None without a value."""
    value = record.derived[metric]
    if value.value is None:
        return None
    if value.low is None or value.high is None:
        return value.value * scale, 0.0, 0.0
    return value.value * scale, (value.value - value.low) * scale, (value.high - value.value) * scale


def powers(axes: Any, at: Sequence[float], name: str) -> None:
    """A logarithmic x axis for numbers that double."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(at), [f"{x:g}" for x in at])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name)


def empty(axes: Any, reason: str) -> None:
    """A panel without data says why."""
    axes.text(0.5, 0.5, wrapped(reason, 40), transform=axes.transAxes, ha="center", va="center", fontsize=9)
    axes.set_axis_off()
