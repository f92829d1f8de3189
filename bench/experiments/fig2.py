"""Figure 2: energy against the length of the prompt, one new token, with fits.

    python -m bench.experiments.fig2 --model presets --random-weights --out fig2.jsonl --plot fig2.png

Prompts of exactly so many tokens, cut from MT-Bench's questions. Every model's curve is fitted by a line and
by a parabola; the paper calls the curves nonlinear without a figure, so the quadratic term is given with its
interval and with its part of the energy at the longest prompt.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.arguments import counts
from bench.experiments import experiment, picture
from bench.experiments.cell_record import by_model, joules, joules_per_token
from bench.experiments.curve_table import HEADER, curve
from bench.experiments.experiment import Experiment
from bench.experiments.protocol import Cell
from bench.experiments.questions import Questions
from bench.experiments.subject import Subject
from bench.record import Record
from bench.tables import joules as shown
from bench.tables import markdown
from engine.cli import leave

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)


def add_options(cli: argparse.ArgumentParser) -> None:
    """The lengths."""
    cli.add_argument("--prompt-tokens", type=counts, default=LENGTHS, metavar="N,N")


def cells(options: argparse.Namespace, subject: Subject, questions: Questions) -> list[Cell]:
    """One for each length."""
    what = f"text of {questions.name}, turn {questions.turn}"
    return [
        Cell((questions.exactly(subject.tokenizer, tokens),), 1, what)
        for tokens in dict.fromkeys(options.prompt_tokens)
    ]


def report(records: Sequence[Record]) -> tuple[str, dict[str, object]]:
    """The fits of every model, and the points they are fits of."""
    rows, points, found = [], [], {}
    for name, these in by_model(records).items():
        x, y = _energies(these)
        fitted = curve(x, y)
        rows.append([name, *fitted.cells(), str(len(x))])
        found[name] = fitted.to_json()
        points += [
            [
                name,
                str(r.case.context),
                shown(r.derived["energy"]),
                shown(r.derived["energy_less_idle"]),
                shown(r.derived["energy_per_token"]),
                f"{median(r.metrics['first_token_s'].samples):.4g}",
            ]
            for r in these
        ]
    fits = markdown(("J of a prompt of x tokens", *HEADER, "points"), rows)
    header = ("", "prompt tokens", "J", "less idle", "J/token", "first token, s")
    return f"{fits}\n\n{markdown(header, points)}", {"models": found}


def _energies(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """(prompt tokens, joules) of the cells that have any."""
    pairs = [(float(r.case.context), value) for r in records if (value := joules(r)) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def draw(records: Sequence[Record], path: Path) -> None:
    """Energy with its fits, and joules per token, both over the prompt's length."""
    models = by_model(records)
    style = picture.styles(list(models))

    def fill(figure: Any) -> None:
        energy, per_token = figure.subplots(1, 2)
        for name, these in models.items():
            x, y = _energies(these)
            if not x:
                continue
            reach = [picture.whiskers(r, "energy") for r in these]
            below, above = ([w[i] for w in reach if w is not None] for i in (1, 2))
            energy.errorbar(x, y, yerr=[below, above], ls="none", ms=5, capsize=2, label=name, **style[name])
            fitted = curve(x, y)
            colour = style[name]["color"]
            at = np.linspace(min(x), max(x), 200)
            if fitted.parabola is not None and fitted.line is not None:
                bent = fitted.parabola["1"] + fitted.parabola["x"] * at + fitted.parabola["x²"] * at**2
                energy.plot(at, bent, color=colour, lw=1.2)
                energy.plot(at, fitted.line["1"] + fitted.line["x"] * at, color=colour, lw=0.9, ls="--")
            ratios = [value for r in these if (value := joules_per_token(r)) is not None]
            per_token.plot(x, ratios, ms=4, lw=1, **style[name])
        if not energy.has_data():
            picture.empty(energy, picture.NOT_MEASURED)
        energy.set(xlabel="prompt tokens", ylabel="J/prompt (95 % of the windows' scatter)")
        energy.set_title("solid: parabola, dashed: line", fontsize=8, loc="left")
        energy.set_ylim(bottom=0)
        per_token.set(ylabel="J/token (prompt and new)", yscale="log")
        lengths = sorted({r.case.context for r in records})
        picture.powers(per_token, lengths, "prompt tokens")
        handles, labels = energy.get_legend_handles_labels()
        if handles:
            energy.legend(handles, labels, fontsize=8, frameon=False, loc="upper left")

    picture.save(
        records, path, (11, 4.8), fill, "Figure 2: energy against the length of the prompt, one new token"
    )


EXPERIMENT = Experiment("fig2", __doc__.split("\n\n")[0], add_options, cells, report, draw)
main = partial(experiment.main, EXPERIMENT)

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
