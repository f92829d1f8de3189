"""The paper's figures 1 to 4 in short: five architectures, random weights, two rounds of short windows.

All cells of a model are measured while it is loaded once, a cell that two figures share once for both. The
records are those of `bench.experiments`: in `fig1.jsonl` to `fig4.jsonl` beside the results, from which
`python -m bench.experiments.fig1 --from fig1.jsonl --plot fig1.png` draws, and copied into the results.
"""

import argparse
import time
from dataclasses import replace

from bench.cuda.setting import Setting, arm_of
from bench.experiments import fig1, fig2, fig3, fig4
from bench.experiments.cell_record import make_record
from bench.experiments.experiment import (
    Experiment,
    check_meter,
    fitting,
    measure,
    note_of,
    parser,
    settings_of,
)
from bench.experiments.questions import Questions, read_questions
from bench.experiments.subject import describe
from bench.record import Case, Metric, Record, append
from engine.errors import TokenjouleError

# Two rounds are the fewest of which a spread can be told; a window is 20 ticks at the least.
SHORT = ("--rounds", "2", "--most-rounds", "2", "--cool-down", "0.2")
GRIDS: dict[Experiment, tuple[str, ...]] = {
    fig1.EXPERIMENT: (),
    fig2.EXPERIMENT: ("--prompt-tokens", "64,512,1024,2048"),
    fig3.EXPERIMENT: ("--prompt-tokens", "64,512", "--new-tokens", "1,8,64,128"),
    fig4.EXPERIMENT: ("--prompt-tokens", "64", "--new-tokens", "64"),
}


def run(setting: Setting) -> None:
    """Model by model, the smallest first; one that fails, or has no time left, is a record that says so."""
    questions, lasted_s, count = read_questions(None, 1), 0.0, 0
    for model in setting.scale.architectures:
        begun_s = time.monotonic()
        arm, case = arm_of(setting, "none", "figures"), Case(model, True, "figures", 1, 1)
        left_s = setting.until_s - begun_s
        if left_s < lasted_s:
            reason = f"{left_s:.0f} s were left, the model before took {lasted_s:.0f} s"
            setting.failed(arm, case, reason, "figures", metric="run_s")
            continue
        try:
            made = _model(setting, model, questions)
        except Exception as error:  # of one model: the others are still worth having
            setting.failed(arm, case, error, "figures", metric="run_s")
            continue
        lasted_s, count = time.monotonic() - begun_s, count + 1
        for record in made:
            if setting.out is not None:
                append(setting.out.with_name(f"{record.benchmark}.jsonl"), [record])
        setting.emit(*made)
        done = {"run_s": Metric("s", (lasted_s,)), "cells": Metric("1", (float(len(made)),))}
        case = replace(case, model=made[0].case.model, shape_only=made[0].case.shape_only)
        setting.emit(Record(setting.benchmark, setting.where, arm, case, setting.group("figures"), done))
    if count == 0:
        raise TokenjouleError("no model could be measured")


def _model(setting: Setting, model: str, questions: Questions) -> list[Record]:
    """The records of all four figures for one model."""
    given = {figure: _options(setting, figure, model) for figure in GRIDS}
    alike = given[fig1.EXPERIMENT]
    subject, settings = describe(model, alike), settings_of(alike)
    wanted = {
        figure: fitting(figure.cells(options, subject, questions), subject)
        for figure, options in given.items()
    }
    cells = list(dict.fromkeys(cell for these in wanted.values() for cell in these))
    source = check_meter(alike, subject)
    measured, meter = measure(alike, subject, settings, cells)
    return [
        make_record(
            figure.name,
            setting.where,
            subject,
            note_of(source, cell, settings),
            measured,
            cells.index(cell),
            meter,
        )
        for figure, these in wanted.items()
        for cell in these
    ]


def _options(setting: Setting, figure: Experiment, model: str) -> argparse.Namespace:
    """The figure's own command line, short. A preset's weights are random; others have no need of that."""
    given = ["--model", model, "--random-weights", "--backend", setting.backend, *SHORT, *GRIDS[figure]]
    given += ["--window-seconds", str(setting.scale.window_s), "--idle-seconds", str(setting.scale.window_s)]
    given += ["--energy-source", setting.energy_source]
    given += ["--device", "cpu" if setting.cuda_device is None else str(setting.cuda_device)]
    if figure is fig1.EXPERIMENT:
        given += ["--prompts", str(setting.scale.questions)]
    return parser(figure).parse_args(given)
