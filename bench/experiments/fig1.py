"""Figure 1: J/token, J/prompt and time to first token by architecture, one new token a prompt.

    python -m bench.experiments.fig1 --model presets --random-weights --out fig1.jsonl --plot fig1.png

MT-Bench's questions, of the turn that is stated, one request after the other. A window runs through all of
them, so that a model's figure is its mean over the same prompts. Random weights read bytes as tokens.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.experiments import experiment, picture
from bench.experiments.cell_record import by_model, label, prompt_tokens
from bench.experiments.experiment import Experiment
from bench.experiments.protocol import Cell
from bench.experiments.questions import Questions
from bench.experiments.subject import Subject
from bench.record import Record
from bench.tables import joules as shown
from bench.tables import markdown
from engine.cli import leave
from engine.errors import UsageError

PROMPTS = 80


def add_options(cli: argparse.ArgumentParser) -> None:
    """How many prompts."""
    cli.add_argument("--prompts", type=int, default=PROMPTS, metavar="N", help="spread over the categories")


def cells(options: argparse.Namespace, subject: Subject, questions: Questions) -> list[Cell]:
    """One: all prompts that were asked for."""
    if options.prompts < 1:
        raise UsageError(f"--prompts must be at least 1, not {options.prompts}")
    prompts = questions.prompts(subject.tokenizer, options.prompts)
    return [Cell(prompts, 1, f"{len(prompts)} prompts of {questions.name}, turn {questions.turn}")]


def report(records: Sequence[Record]) -> tuple[str, dict[str, object]]:
    """A line for each model, cheapest per token first where joules are known."""
    ordered = sorted(records, key=lambda r: r.derived["energy_per_token"].value or float("inf"))
    rows, found = [], {}
    for record in ordered:
        first_s = median(record.metrics["first_token_s"].samples)
        rows.append(
            [
                label(record),
                f"{prompt_tokens(record):.1f}",
                shown(record.derived["energy_per_token"]),
                shown(record.derived["energy"]),
                shown(record.derived["energy_less_idle"]),
                f"{first_s * 1e3:.3g}",
                str(len(record.metrics["request_s"].samples)),
                record.derived["other_processes"].source or "none seen",
            ]
        )
        found[label(record)] = {
            "joules_per_token": record.derived["energy_per_token"].value,
            "joules_per_prompt": record.derived["energy"].value,
            "joules_per_prompt_less_idle": record.derived["energy_less_idle"].value,
            "first_token_s": first_s,
        }
    note = records[0].arm.note.split("; ")[1]
    header = (
        note,
        "tokens",
        "J/token",
        "J/prompt",
        "less idle",
        "first token, ms",
        "windows",
        "others at work",
    )
    return markdown(header, rows), {"requests": note, "models": found}


def draw(records: Sequence[Record], path: Path) -> None:
    """Three rows of bars."""
    models = {name: these[-1] for name, these in by_model(records).items()}
    style = picture.styles(list(models))

    def fill(figure: Any) -> None:
        per_token, per_prompt, first = figure.subplots(1, 3)
        _bars(per_token, models, style, "energy_per_token", 1.0, "J/token (prompt and new)")
        _bars(per_prompt, models, style, "energy", 1.0, "J/prompt; white: less idle")
        for place, record in enumerate(models.values()):
            less = record.derived["energy_less_idle"].value
            if less is not None:
                per_prompt.plot([place - 0.4, place + 0.4], [less] * 2, color="white", lw=2)
        for place, (name, record) in enumerate(models.items()):
            samples = [s * 1e3 for s in record.metrics["first_token_s"].samples]
            middle = median(samples)
            reach = [[middle - min(samples)], [max(samples) - middle]]
            first.bar(place, middle, yerr=reach, color=style[name]["color"], error_kw={"capsize": 3})
        _finish(first, models, "time to first token, ms (range of windows)")

    tokens = mean(prompt_tokens(record) for record in models.values())
    title = f"Figure 1: one new token behind {tokens:.0f} prompt tokens on average, by architecture"
    picture.save(records, path, (max(9.0, 1.6 * len(models) + 6), 4.6), fill, title)


def _bars(
    axes: Any, models: dict[str, Record], style: dict[str, Any], metric: str, scale: float, name: str
) -> None:
    for place, (model, record) in enumerate(models.items()):
        found = picture.whiskers(record, metric, scale)
        if found is None:
            axes.text(place, 0, f" {picture.NOT_MEASURED}", rotation=90, va="bottom", ha="center", fontsize=8)
            continue
        value, below, above = found
        axes.bar(place, value, yerr=[[below], [above]], color=style[model]["color"], error_kw={"capsize": 3})
    _finish(axes, models, name)


def _finish(axes: Any, models: dict[str, Record], name: str) -> None:
    axes.set_xticks(range(len(models)), list(models), rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(name, fontsize=9)
    axes.set_ylim(bottom=0)


EXPERIMENT = Experiment("fig1", __doc__.split("\n\n")[0], add_options, cells, report, draw)
main = partial(experiment.main, EXPERIMENT)

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
