"""Figure 4: how busy the device is by architecture, its clocks, and busyness against J/token.

    python -m bench.experiments.fig4 --model presets --random-weights --out fig4.jsonl --plot fig4.png

Utilisation is NVML's: the share of time in which a kernel ran, in which the memory was read or written; a
kernel on one multiprocessor counts as a busy GPU. On a CPU it is this process's time over all cores, and the
GPU's columns say "not measured". Spearman's rank correlation over the architectures, with a permutation test.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from bench.experiments import experiment, picture
from bench.experiments.cell_record import by_model, joules_per_token, label
from bench.experiments.correlation import RankCorrelation, spearman
from bench.experiments.experiment import Experiment
from bench.experiments.protocol import Cell
from bench.experiments.questions import Questions
from bench.experiments.subject import Subject
from bench.record import Record
from bench.tables import joules as shown
from bench.tables import markdown
from engine.cli import leave
from engine.errors import UsageError

PROMPT_TOKENS, NEW_TOKENS = 64, 64
SHARES = {"gpu_share": "GPU busy", "gpu_memory_share": "GPU memory busy", "cpu_share": "CPU, this process"}
CLOCKS = {"sm_clock": "SM clock", "memory_clock": "memory clock"}


def add_options(cli: argparse.ArgumentParser) -> None:
    """The one cell."""
    cli.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS, metavar="N")
    cli.add_argument("--new-tokens", type=int, default=NEW_TOKENS, metavar="M")


def cells(options: argparse.Namespace, subject: Subject, questions: Questions) -> list[Cell]:
    """One."""
    if min(options.prompt_tokens, options.new_tokens) < 1:
        raise UsageError("--prompt-tokens and --new-tokens must be at least 1")
    prompt = questions.exactly(subject.tokenizer, options.prompt_tokens)
    return [Cell((prompt,), options.new_tokens, f"text of {questions.name}, turn {questions.turn}")]


def report(records: Sequence[Record]) -> tuple[str, dict[str, object]]:
    """A line for each model, and the correlations."""
    rows, models = [], {}
    for record in records:
        shares = [_mean(record, name, lambda v: f"{v:.0%}") for name in SHARES]
        clocks = [_mean(record, name, lambda v: f"{v / 1e6:.0f} MHz") for name in CLOCKS]
        others = record.derived["other_processes"].source or "none seen"
        rows.append([label(record), *shares, *clocks, shown(record.derived["energy_per_token"]), others])
        models[label(record)] = {
            "joules_per_token": joules_per_token(record),
            **{
                name: mean(record.metrics[name].samples) if record.metrics[name].samples else None
                for name in (*SHARES, *CLOCKS)
            },
        }
    case = records[0].case
    what = f"{case.context} + {case.new_tokens} tokens"
    table = markdown((what, *SHARES.values(), *CLOCKS.values(), "J/token", "others at work"), rows)
    found = {name: correlation(records, name) for name in SHARES}
    lines = [f"{SHARES[name]} against J/token: {_in_words(rank)}." for name, rank in found.items()]
    if records[0].derived["energy"].source == "estimate":
        lines.append(
            "The estimate is CPU time × watts: its joules follow the CPU's busyness by construction, and "
            "this correlation says nothing."
        )
    ranks = {
        name: {"n": r.n, "rho": r.rho, "p": r.p, "low": r.low, "high": r.high, "reason": r.reason}
        for name, r in found.items()
    }
    return "\n\n".join([table, *lines]), {"models": models, "spearman": ranks}


def correlation(records: Sequence[Record], metric: str) -> RankCorrelation:
    """Of a utilisation with J/token, over the models that have both."""
    pairs = [
        (mean(record.metrics[metric].samples), value)
        for record in records
        if record.metrics[metric].samples and (value := joules_per_token(record)) is not None
    ]
    return spearman([x for x, _ in pairs], [y for _, y in pairs])


def _in_words(rank: RankCorrelation) -> str:
    if rank.rho is None:
        return f"{picture.NOT_MEASURED} ({rank.reason})"
    between = (
        f"95 % {rank.low:.2f} to {rank.high:.2f}" if rank.low is not None else f"no interval: {rank.reason}"
    )
    return f"Spearman's ρ = {rank.rho:.2f}, n = {rank.n}, permutation p = {rank.p:.2g}, {between}"


def _mean(record: Record, metric: str, form: Callable[[float], str]) -> str:
    samples = record.metrics[metric].samples
    return form(mean(samples)) if samples else picture.NOT_MEASURED


def draw(records: Sequence[Record], path: Path) -> None:
    """Bars of each utilisation, bars of the clock, and the scatter of utilisation against J/token."""
    models = {name: these[-1] for name, these in by_model(records).items()}
    style = picture.styles(list(models))
    shares = [name for name in SHARES if any(r.metrics[name].samples for r in models.values())]
    against = shares[0]

    def fill(figure: Any) -> None:
        bars, clocks, scatter = figure.subplots(1, 3)
        width = 0.8 / len(shares)
        for place, (name, record) in enumerate(models.items()):
            for index, share in enumerate(shares):
                value = mean(record.metrics[share].samples) if record.metrics[share].samples else 0.0
                at = place + (index - (len(shares) - 1) / 2) * width
                bars.bar(at, value, width, color=style[name]["color"], alpha=1 - 0.3 * index, ec="white")
        _ticks(bars, list(models), "share of time, dark to light: " + ", ".join(SHARES[s] for s in shares))
        bars.set_ylim(0, 1.02)
        if any(r.metrics["sm_clock"].samples for r in models.values()):
            for place, (name, record) in enumerate(models.items()):
                samples = record.metrics["sm_clock"].samples
                clocks.bar(place, mean(samples) / 1e6 if samples else 0.0, color=style[name]["color"])
            _ticks(clocks, list(models), "SM clock, MHz")
        else:
            picture.empty(clocks, f"GPU utilisation and clocks: {picture.NOT_MEASURED} (no GPU)")
        for name, record in models.items():
            per_token, samples = joules_per_token(record), record.metrics[against].samples
            if per_token is not None and samples:
                scatter.plot(mean(samples), per_token, ls="none", ms=8, label=name, **style[name])
        if scatter.has_data():
            scatter.set(xlabel=f"{SHARES[against]}, share of time", ylabel="J/token (prompt and new)")
            scatter.legend(fontsize=8, frameon=False)
            rank = correlation(list(models.values()), against)
            told = (
                "too few for a correlation" if rank.rho is None else f"ρ = {rank.rho:.2f}, p = {rank.p:.2g}"
            )
            scatter.set_title(f"Spearman, n = {rank.n}: {told}", fontsize=8, loc="left")
        else:
            picture.empty(scatter, f"J/token: {picture.NOT_MEASURED}")

    case = records[0].case
    title = f"Figure 4: utilisation by architecture, {case.context} prompt and {case.new_tokens} new tokens"
    picture.save(records, path, (13, 5.0), fill, title)


def _ticks(axes: Any, names: Sequence[str], title: str) -> None:
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_title(title, fontsize=8, loc="left")


EXPERIMENT = Experiment("fig4", __doc__.split("\n\n")[0], add_options, cells, report, draw)
main = partial(experiment.main, EXPERIMENT)

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
