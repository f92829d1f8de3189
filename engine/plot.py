"""The picture of one request: joules of every token, and how they add up against the budget."""

from itertools import accumulate, groupby
from pathlib import Path

from engine.errors import TokenjouleError
from engine.result import Generation

_COLOURS = {"think": "#4C78A8", "answer": "#F58518", "probe": "#B279A2", "prefill": "#9D9D9D"}


def require_matplotlib() -> None:
    """Raises `TokenjouleError` where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TokenjouleError("--plot needs matplotlib: pip install 'tokenjoule[plot]'") from error


def draw_request(result: Generation, path: str) -> None:
    """Write a PNG (or what the file's ending says). Raises `TokenjouleError` when it cannot be written."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    each, total = figure.subplots(2, 1, sharex=True)
    energy = result.energy
    prefill_j = energy.phases["prefill"].energy_j if "prefill" in energy.phases else 0.0
    per_token = [joules or 0.0 for joules in result.per_token_j]
    for phase, run in groupby(enumerate(result.phases_by_token), key=lambda item: item[1]):
        span = [index for index, _ in run]
        known = [index for index in span if result.per_token_j[index] is not None]
        label = phase if phase not in each.get_legend_handles_labels()[1] else None
        colour = _COLOURS.get(phase, "#54A24B")
        each.bar(known, [per_token[i] for i in known], width=0.9, color=colour, label=label)
        deviations = [result.per_token_sd_j[i] for i in known]
        if known and all(sd is not None for sd in deviations):
            each.errorbar(
                known,
                [per_token[i] for i in known],
                yerr=[1.96 * (sd or 0.0) for sd in deviations],
                fmt="none",
                ecolor="#444444",
                elinewidth=0.7,
            )
    worth = "measured" if energy.measured else "not measured"
    each.set_ylabel("J of the token's forward")
    each.set_title(
        f"{result.model.id} · {len(result.token_ids)} new tokens · {energy.total_j:.3g} J "
        f"({energy.source}, {worth}) · stop: {result.stop.reason}"
    )
    if result.phases_by_token:
        each.legend(loc="upper right", frameon=False)
    running = [prefill_j + joules for joules in accumulate(per_token)]
    total.step(range(len(running)), running, where="post", color="#333333", label="prefill + tokens so far")
    if result.budget:
        total.axhline(result.budget.joules, color="#E45756", linestyle="--", label="budget")
        total.axhline(
            result.budget.joules - result.budget.reserve_j,
            color="#E45756",
            linestyle=":",
            label="budget less the answer's reserve",
        )
    total.set_ylabel("J so far")
    total.set_xlabel("new token (the first is chosen by prefill, injected ones by no forward)")
    total.set_ylim(bottom=0)
    total.legend(loc="best", frameon=False)
    for axes in (each, total):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(Path(path), dpi=120)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error
