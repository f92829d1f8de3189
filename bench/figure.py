"""A picture of one run's decode records: tok/s of every arm, under the line that memory allows."""

from collections.abc import Sequence
from pathlib import Path

from bench.record import Record
from engine.errors import TokenjouleError, UsageError

# One colour for each way to hold weights, from Okabe and Ito's palette for colour-blind readers.
COLOURS = {"none": "#0072B2", "int8": "#E69F00", "int4": "#009E73", "Q8_0": "#E69F00", "Q4_0": "#009E73"}
OTHER = "#0072B2"
OURS, THEIRS = "", "///"  # hatches


def draw_decode(records: Sequence[Record], path: Path) -> None:
    """Bars of tok/s for each case, quartiles as whiskers; the line above a bar is the roofline.

    The roofline of an arm: the read bandwidth of its group over the bytes that its step reads. Raises
    `UsageError` where there is nothing to draw, `TokenjouleError` where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TokenjouleError("a picture needs matplotlib: pip install -e '.[plot]'") from error
    decoded = [
        r
        for r in records
        if r.benchmark == "decode" and r.case.phase == "decode" and "/scaling" not in r.group
    ]
    if not decoded:
        raise UsageError("the records hold no decode case to draw")
    cases = sorted(dict.fromkeys(r.case for r in decoded), key=lambda c: (c.rows, c.context))
    columns = len({case.context for case in cases})
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(4.2 * columns, 0.9 + 2.9 * lines), layout="constrained")
    names = list(dict.fromkeys(r.arm.name for r in decoded))
    for index, case in enumerate(cases):
        axes = figure.add_subplot(lines, columns, index + 1)
        found = {r.arm.name: r for r in decoded if r.case == case}
        _draw_case(axes, names, found)
        axes.set_title(f"{case.rows} row{'s' * (case.rows > 1)}, context {case.context}", fontsize=10)
        if index % columns == 0:
            axes.set_ylabel("tok/s")
    stamp = decoded[0].stamp
    shape = ", random weights" if cases[0].shape_only else ""
    figure.suptitle(
        f"{cases[0].model}{shape}: decode on {stamp.device}, {stamp.cores} cores.\n"
        "Bars: median and quartiles; line: limit set by the read bandwidth",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _draw_case(axes: object, names: Sequence[str], found: dict[str, Record]) -> None:
    for place, name in enumerate(names):
        record = found.get(name)
        if record is None:
            axes.text(place, 0, " not measured", rotation=90, va="bottom", ha="center", fontsize=7)  # type: ignore[attr-defined]
            continue
        took = record.metrics["step_s"]
        assert took.median is not None
        rate = record.case.rows / took.median
        low, high = took.quartiles or (took.median, took.median)
        whiskers = [[rate - record.case.rows / high], [record.case.rows / low - rate]]
        axes.bar(  # type: ignore[attr-defined]
            place,
            rate,
            yerr=whiskers,
            color=COLOURS.get(record.arm.quantization, OTHER),
            hatch=OURS if record.arm.engine == "tokenjoule" else THEIRS,
            edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        share = record.derived["read_share"].value
        if share:
            axes.plot([place - 0.45, place + 0.45], [rate / share] * 2, color="black", lw=1)  # type: ignore[attr-defined]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)  # type: ignore[attr-defined]
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
