"""The picture of one request: joules of every token, and how they add up against the budget."""

from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import TokenjouleError, UsageError
from engine.result import Generation, format_j

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"think": "#4C78A8", "answer": "#F58518", "probe": "#B279A2", "prefill": "#9D9D9D"}


_ENDINGS = (".png", ".svg", ".pdf")


def check_plot(path: str) -> None:
    """Raises `UsageError` for a file that is no picture, `TokenjouleError` without matplotlib."""
    if not path.endswith(_ENDINGS):
        raise UsageError(f"a plot ends in {', '.join(_ENDINGS)}, not {path}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TokenjouleError("--plot needs matplotlib: pip install 'tokenjoule[plot]'") from error


def draw_request(result: Generation, path: str) -> None:
    """Write a PNG (or what the file's ending says). Raises `TokenjouleError` when it cannot be written."""
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    each, total = figure.subplots(2, 1, sharex=True)
    energy = result.energy
    prefill_j = (energy.phases["prefill"].energy_j or 0.0) if "prefill" in energy.phases else 0.0
    per_token = [joules or 0.0 for joules in result.per_token_j]
    each.bar([0], [prefill_j], width=0.9, color=_COLOURS["prefill"], label="prefill")
    for phase, run in groupby(enumerate(result.phases_by_token), key=lambda item: item[1]):
        known = [index for index, _ in run if result.per_token_j[index] is not None]
        if not known:
            continue
        label = phase if phase not in each.get_legend_handles_labels()[1] else None
        heights = [per_token[i] for i in known]
        each.bar(known, heights, width=0.9, color=_COLOURS.get(phase, "#54A24B"), label=label)
        reach = [1.96 * (result.per_token_sd_j[i] or 0.0) for i in known]
        if any(reach):
            below = [min(r, height) for r, height in zip(reach, heights, strict=True)]  # no joules below 0
            each.errorbar(known, heights, yerr=[below, reach], fmt="none", ecolor="#444444", elinewidth=0.7)
    worth = "measured" if energy.measured else "not measured"
    each.set_ylabel("J of the forward")
    each.set_ylim(bottom=0)
    count = len(result.token_ids)
    each.set_title(
        f"{result.model.id} · {count} new token{'' if count == 1 else 's'} · {format_j(energy.window_j)} J "
        f"({energy.source}, {worth}) · stop: {result.stop.reason}"
    )
    each.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    between_j = (energy.window_j or 0.0) - prefill_j - sum(per_token)
    spread_j = max(between_j, 0.0) / max(len(per_token), 1)
    running = [prefill_j + joules for joules in accumulate(joules + spread_j for joules in per_token)]
    total.step(
        range(len(running)),
        running,
        where="post",
        marker="o" if len(running) == 1 else None,
        color="#333333",
        label="request so far,\ngaps spread evenly",
    )
    if result.budget:
        total.axhline(result.budget.joules, color="#E45756", linestyle="--", label="budget")
        total.axhline(
            result.budget.joules - result.budget.reserve_j,
            color="#E45756",
            linestyle=":",
            label="less the answer's\nreserve",
        )
    total.set_ylabel("J so far")
    total.set_xlabel("new token (prefill chooses the first, no forward the injected ones)")
    total.set_ylim(bottom=0)
    total.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for axes in (each, total):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, Path(path))


def save_figure(figure: "Figure", path: Path) -> None:
    """Raises `TokenjouleError`."""
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error
