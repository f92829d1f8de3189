"""The picture of figure 3: for every prompt length E, J/token and the shape, over the new tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments import picture
from bench.experiments.cell_record import joules, joules_per_token
from bench.experiments.curve_table import curve
from bench.experiments.fits import amortised
from bench.record import Record


def draw(records: Sequence[Record], curves: Mapping[tuple[str, int], Sequence[Record]], path: Path) -> None:
    """`curves`: (model, prompt tokens) to its records by new tokens, all with joules."""
    style = picture.styles(list(dict.fromkeys(name for name, _ in curves)))
    lengths = sorted({prompt for _, prompt in curves})

    def fill(figure: Any) -> None:
        rows = figure.subplots(max(len(lengths), 1), 3, squeeze=False)
        for axes, prompt in zip(rows, lengths, strict=False):
            _draw_length(axes, prompt, curves, style)
        if not lengths:
            for axes in rows[0]:
                picture.empty(axes, picture.NOT_MEASURED)
            return
        handles, labels = rows[0][0].get_legend_handles_labels()
        rows[0][0].legend(handles, labels, fontsize=8, frameon=False, loc="upper left")

    title = "Figure 3: energy and J/token against exactly so many new tokens"
    height = 1.4 + 3.3 * max(len(lengths), 1)
    picture.save(records, path, (13, height), fill, title)


def _draw_length(
    axes: Sequence[Any],
    prompt: int,
    curves: Mapping[tuple[str, int], Sequence[Record]],
    style: Mapping[str, dict[str, Any]],
) -> None:
    energy, per_token, shape = axes
    for (name, length), records in curves.items():
        if length != prompt:
            continue
        new = np.array([r.case.new_tokens for r in records], dtype=float)
        values = np.array([value for r in records if (value := joules(r)) is not None])
        ratios = np.array([value for r in records if (value := joules_per_token(r)) is not None])
        reach = [picture.whiskers(r, "energy") for r in records]
        bars = [[w[i] for w in reach if w is not None] for i in (1, 2)]
        energy.errorbar(new, values, yerr=bars, ls="none", ms=5, capsize=2, label=name, **style[name])
        per_token.plot(new, ratios, ls="none", ms=5, **style[name])
        shape.plot(new, values / values[-1], ms=4, lw=1, **style[name])
        colour, at = style[name]["color"], np.geomspace(new.min(), new.max(), 200)
        fitted = curve(new.tolist(), values.tolist())
        if fitted.parabola is not None:
            bent = fitted.parabola["1"] + fitted.parabola["x"] * at + fitted.parabola["x²"] * at**2
            energy.plot(at, bent, color=colour, lw=1)
        if len(new) > 2:
            two = amortised(prompt, new.tolist(), ratios.tolist())
            per_token.plot(at, (two["a"] + two["b"] * at) / (prompt + at), color=colour, lw=1)
    energy.set(xlabel="new tokens", ylabel="J/request (gross)")
    energy.set_title(f"{prompt} prompt tokens; line: parabola", fontsize=8, loc="left")
    energy.set_ylim(bottom=0)
    counts = sorted({r.case.new_tokens for (_, length), rs in curves.items() if length == prompt for r in rs})
    per_token.set_ylabel("J/token (prompt and new)")
    picture.powers(per_token, counts, "new tokens")
    per_token.set_title("line: amortisation of a straight E", fontsize=8, loc="left")
    per_token.set_ylim(bottom=0)
    shape.set(ylabel="share of the longest's energy", yscale="log")
    picture.powers(shape, counts, "new tokens")
    shape.set_title("shape: every model by its own longest request", fontsize=8, loc="left")
