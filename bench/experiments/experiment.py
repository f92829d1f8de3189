"""What the paper's figures share on the command line: models in, cells measured, records out, a picture.

Each figure says which cells it needs, what it concludes from their records and how it draws them; `main` does
the rest. Records of a cell already in --out that was measured with the same settings are not made again.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.arguments import names, refuse_beside_from
from bench.experiments.cell_record import Key, arm_of, case_of, key_of, make_record, newest, record_key
from bench.experiments.occupancy import Observer
from bench.experiments.picture import worth
from bench.experiments.protocol import Cell, Measured, Runner, Settings
from bench.experiments.questions import Questions, read_questions
from bench.experiments.subject import PRESETS, Subject, describe, load
from bench.record import Record, Stamp, append, read
from bench.stamp import stamp
from bench.tables import origin
from engine.cli import Parser, guarded
from engine.energy.meter import Meter
from engine.energy.nvml import NvmlReadings, uuid_of_cuda_device
from engine.energy.sources import open_meter, require_measured
from engine.errors import MeterError, TokenjouleError, UsageError
from engine.plot import check_plot

ALL = "presets"


@dataclass(frozen=True)
class Experiment:
    """One figure. `options` adds its own to the command line; `cells`: what a model is to be measured at.

    `report`: markdown and plain findings for the last line, from records alone; `draw`: the picture.
    """

    name: str
    title: str
    options: Callable[[argparse.ArgumentParser], None]
    cells: Callable[[argparse.Namespace, Subject, Questions], Sequence[Cell]]
    report: Callable[[Sequence[Record]], tuple[str, dict[str, object]]]
    draw: Callable[[Sequence[Record], Path], None]


def parser(experiment: Experiment) -> argparse.ArgumentParser:
    """The command line."""
    usual = Settings()
    cli = Parser(
        prog=f"bench.experiments.{experiment.name}", description=experiment.title, allow_abbrev=False
    )
    cli.add_argument(
        "--model", type=names, metavar=f"DIR|HF-ID|bundled:NAME|preset:NAME,…|{ALL}", help=f"{ALL}: {PRESETS}"
    )
    cli.add_argument("--random-weights", action="store_true", help="for presets; figures are then shape only")
    cli.add_argument("--backend", default="auto", metavar="auto|gpu|cpu|torch")
    cli.add_argument("--device", metavar="N|cpu")
    cli.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    cli.add_argument("--quantize", metavar="none|int8|int4")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    cli.add_argument(
        "--questions", type=Path, metavar="FILE.jsonl", help="default: MT-Bench in the test data"
    )
    cli.add_argument("--turn", type=int, choices=(1, 2), default=1)
    cli.add_argument("--window-seconds", type=float, default=usual.window_s, metavar="S", help="at least")
    cli.add_argument(
        "--cool-down", type=float, default=usual.cool_down_s, metavar="S", help="before a window"
    )
    cli.add_argument("--idle-seconds", type=float, default=usual.idle_s, metavar="S")
    cli.add_argument("--rounds", type=int, default=usual.least_rounds, metavar="N", help="at least")
    cli.add_argument("--most-rounds", type=int, default=usual.most_rounds, metavar="N")
    cli.add_argument(
        "--spread", type=float, default=usual.spread, metavar="X", help="above it: another round"
    )
    cli.add_argument("--seed", type=int, default=usual.seed, metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file; resumable")
    cli.add_argument("--plot", type=Path, metavar="FILE.png")
    cli.add_argument(
        "--from", dest="files", type=Path, nargs="+", metavar="FILE.jsonl", help="measure nothing"
    )
    experiment.options(cli)
    return cli


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Run the command line of one figure; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(experiment, arguments))


def _main(experiment: Experiment, arguments: Sequence[str]) -> int:
    cli = parser(experiment)
    options = cli.parse_args(arguments)
    if options.plot:
        check_plot(str(options.plot))
    skipped: dict[str, str] = {}
    if options.files:
        refuse_beside_from(cli, options)
        found = [r for r in read(options.files) if r.benchmark == experiment.name]
        made = 0
    else:
        before = _earlier(experiment, options.out)
        wanted: set[Key] = set()
        new = list(_measure(experiment, options, arguments, {record_key(r) for r in before}, wanted, skipped))
        found, made = [r for r in [*before, *new] if record_key(r) in wanted], len(new)
    records, others = newest(found)
    if not records:
        raise UsageError(f"there are no records of {experiment.name}")
    if others:
        _say(f"{others} cells that were measured in another way are left out")
    table, findings = experiment.report(records)
    if options.plot:
        experiment.draw(records, options.plot)
    print(worth(records), table, sep="\n\n", end="\n\n")
    for run in {record.stamp.run: record for record in records}.values():
        print(origin(run.stamp, run.case.shape_only), end="\n\n")
    energy = records[0].derived["energy"]
    result = {
        "schema": f"tokenjoule.bench.{experiment.name}/1",
        "cells": len(records),
        "measured_now": made,
        "source": energy.source,
        "measured": energy.measured,
        "file": None if options.out is None else str(options.out),
        "skipped": skipped,
        "findings": findings,
    }
    print(json.dumps(result))
    return 0


def _earlier(experiment: Experiment, out: Path | None) -> list[Record]:
    if out is None or not out.exists():
        return []
    return [record for record in read([out]) if record.benchmark == experiment.name]


def note_of(source: str, cell: Cell, settings: Settings) -> str:
    """How a cell is measured, for its record: `source` as `check_meter` tells it."""
    return f"{source}; {cell.requests}; {settings}"


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises `UsageError` for what makes no sense."""
    least = options.rounds
    if least < 2 or options.most_rounds < least:
        raise UsageError(f"at least 2 rounds, and no fewer at most: {least} and {options.most_rounds}")
    for name in ("window_seconds", "cool_down", "spread"):
        if not 0 <= getattr(options, name) < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be finite and not negative")
    if not 0 < options.idle_seconds < math.inf:
        raise UsageError("--idle-seconds must be finite and more than 0: there is no baseline without it")
    return Settings(
        window_s=options.window_seconds,
        cool_down_s=options.cool_down,
        idle_s=options.idle_seconds,
        least_rounds=least,
        most_rounds=options.most_rounds,
        spread=options.spread,
        seed=options.seed,
    )


def _measure(
    experiment: Experiment,
    options: argparse.Namespace,
    arguments: Sequence[str],
    done: set[Key],
    wanted: set[Key],
    skipped: dict[str, str],
) -> Iterator[Record]:
    """Model by model the records of its cells that are not `done`; models that cannot run are `skipped`.

    `wanted` takes the keys of all cells that were asked for, done or not.
    """
    if not options.model:
        raise UsageError("name the models with --model, or files with --from")
    models = [name for given in options.model for name in (PRESETS if given == ALL else (given,))]
    settings, questions = settings_of(options), read_questions(options.questions, options.turn)
    subjects = [describe(name, options) for name in dict.fromkeys(models)]
    where = stamp(f"bench.experiments.{experiment.name}", arguments, subjects[0].device)
    source = check_meter(options, subjects[0])
    ran = False
    for place, subject in enumerate(subjects, 1):
        cells = fitting(experiment.cells(options, subject, questions), subject)
        due = []
        for cell in cells:
            note = note_of(source, cell, settings)
            key = key_of(experiment.name, where.device, arm_of(subject, note), case_of(subject, cell))
            wanted.add(key)
            if key in done:
                ran = True
            else:
                due.append((cell, note))
        counts = f"{len(due)} cells to measure, {len(cells) - len(due)} done"
        _say(f"{subject.id} [{place} of {len(subjects)}]: {counts}")
        if not due:
            continue
        try:
            records = _run(experiment.name, options, subject, settings, due, where)
        except (UsageError, MeterError):
            raise
        except TokenjouleError as error:
            skipped[subject.id] = str(error)
            _say(f"skipped {subject.id}: {error}")
            continue
        if options.out:
            append(options.out, records)
        ran = True
        yield from records
    if not ran:
        raise TokenjouleError(f"no model could be measured: {'; '.join(skipped.values()) or 'no cell fits'}")


def _run(
    name: str,
    options: argparse.Namespace,
    subject: Subject,
    settings: Settings,
    due: Sequence[tuple[Cell, str]],
    where: Stamp,
) -> list[Record]:
    """Records of cells with their notes. Raises `MeterError` where a required meter failed."""
    measured, meter = measure(options, subject, settings, [cell for cell, _ in due])
    records = [
        make_record(name, where, subject, note, measured, index, meter) for index, (_, note) in enumerate(due)
    ]
    failed = next((r.metrics["energy"].reason for r in records if r.metrics["energy"].reason), None)
    if failed and options.require_measured:
        raise MeterError(f"the energy was not measured completely: {failed}")
    return records


def measure(
    options: argparse.Namespace, subject: Subject, settings: Settings, cells: Sequence[Cell]
) -> tuple[Measured, Meter]:
    """Load a model, measure its cells, let go of it; the meter is closed then, what it is stays known."""
    gpu = NvmlReadings(uuid_of_cuda_device(subject.device.index)) if subject.device.type == "cuda" else None
    try:
        with load(subject, options) as engine:
            say = lambda line: _say(f"{subject.id}: {line}")  # noqa: E731
            return Runner(engine, settings, Observer(gpu), say).run(cells), engine.poller.meter
    finally:
        if gpu is not None:
            gpu.close()


def check_meter(options: argparse.Namespace, subject: Subject) -> str:
    """Open the source once before anything is loaded; its name and what it is worth. Raises as it does."""
    meter = open_meter(
        options.energy_source, cuda_device=subject.device.index if subject.device.type == "cuda" else None
    )
    try:
        if options.require_measured:
            require_measured(meter)
        if not meter.measured:
            _say(f"energy: NOT MEASURED, source {meter.name}. {meter.note}")
        return f"energy by {meter.name}" + ("" if meter.measured else f" ({meter.note.partition(';')[0]})")
    finally:
        meter.close()


def fitting(cells: Sequence[Cell], subject: Subject) -> list[Cell]:
    """Cells whose requests fit into the model's context; the others are named."""
    found = []
    for cell in cells:
        longest = max(len(prompt) for prompt in cell.prompts) + cell.new_tokens
        if longest > subject.max_context:
            _say(f"{subject.id}: left out {longest} tokens, the context holds {subject.max_context}")
        else:
            found.append(cell)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
