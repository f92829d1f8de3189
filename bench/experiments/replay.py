"""Votes and token budgets replayed on stored outputs of real models.

    python -m bench.experiments.replay --traces mmlu-pro,zeroeval,maj8,game24 --out replay.jsonl --plot
    replay.png

Right at b tokens only if finished within b: longer texts are censored, as they hold no forced answers. Tokens
are counted by one tokenizer for all models. Joules are another's measurement per token or an operating
curve's, and marked so; nothing is measured here.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.arguments import names, refuse_beside_from
from bench.benchmarks.files import json_lines
from bench.experiments.replay_table import draw, report
from bench.passages import DATA
from bench.replay import budgets, votes
from bench.replay.budgets import Counted
from bench.replay.joules import BATCH, GPU, Joules, by_curve, served
from bench.replay.tokens import TokenCounter
from bench.replay.traces import SOURCES, Source, read_traces, source_of
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError
from engine.plot import check_plot

SCHEMA = "tokenjoule.replay/1"
ALL = "all"
CATEGORY_QUESTIONS = 100  # a category with fewer has no curve of its own


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(
        prog="bench.experiments.replay", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    cli.add_argument("--traces", type=names, default=tuple(SOURCES), metavar=",".join(SOURCES))
    cli.add_argument("--data", type=Path, metavar="DIR", help=f"default: data/ below {DATA}")
    cli.add_argument("--model", metavar="WORD", help="only files whose name holds it")
    cli.add_argument("--limit", type=int, metavar="N", help="the first N questions of each file")
    cli.add_argument("--tokenizer", type=Path, metavar="DIR", help="default: Llama 3's in the test data")
    cli.add_argument("--curve", type=Path, metavar="FILE.json", help="an operating curve, for the joules")
    cli.add_argument("--energy-table", type=Path, metavar="FILE.jsonl", help="default: ML.ENERGY v2's")
    cli.add_argument("--energy-gpu", default=GPU, metavar="NAME", help="of the table")
    cli.add_argument("--energy-batch", type=int, default=BATCH, metavar="N", help="of the table")
    cli.add_argument(
        "--orders", type=int, default=votes.ORDERS, metavar="N", help="random ones of the samples"
    )
    cli.add_argument("--seed", type=int, default=0, metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="written anew")
    cli.add_argument("--plot", type=Path, metavar="FILE.png")
    cli.add_argument(
        "--from", dest="files", type=Path, nargs="+", metavar="FILE.jsonl", help="replay nothing"
    )
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    cli = parser()
    options = cli.parse_args(arguments)
    if options.plot:
        check_plot(str(options.plot))
    if options.files:
        refuse_beside_from(cli, options)
        lines = read(options.files)
    else:
        lines = list(_replayed(options, arguments))
        if options.out:
            _write(options.out, lines)
    points = [line for line in lines if line["kind"] != "run"]
    if not points:
        raise UsageError("there are no replayed points")
    print(report(lines), end="\n\n")
    if options.plot:
        draw(lines, options.plot)
    last = {
        "schema": "tokenjoule.bench.replay/1",
        "points": len(points),
        "measured": False,
        "file": None if options.out is None else str(options.out),
    }
    print(json.dumps(last))
    return 0


def read(paths: Sequence[Path]) -> list[Mapping[str, Any]]:
    """The lines of files of this schema. Raises `TokenjouleError` that names file and line."""
    found = []
    for path in paths:
        for where, line in json_lines(path):
            if line.get("schema") != SCHEMA or line.get("kind") not in ("run", "budget", "vote"):
                raise TokenjouleError(f"{where}: not a line of {SCHEMA}")
            found.append(line)
    return found


def _replayed(options: argparse.Namespace, arguments: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The run's stamp, then file by file its points."""
    for name in ("limit", "orders", "energy_batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if options.curve and options.energy_table:
        raise UsageError("joules come from --curve or from --energy-table, not from both")
    sources = [source_of(name) for name in dict.fromkeys(options.traces)]
    root = data_root(options.data)
    counter = TokenCounter(options.tokenizer or root.parent / "models" / "llama3-tokenizer")
    where = stamp("bench.experiments.replay", arguments, torch.device("cpu"))
    yield {"schema": SCHEMA, "kind": "run", "stamp": asdict(where), "tokenizer": counter.name}
    for source in sources:
        files = [f for f in sorted(root.glob(source.files)) if not options.model or options.model in f.name]
        if not files and not options.model:
            raise TokenjouleError(f"{root} holds no {source.files}")
        for file in files:
            _say(f"{source.name}: {file.name}")
            yield from _file(source, file, counter, options, root)


def data_root(given: Path | None) -> Path:
    """The folder given, else data/ below the test data. Raises `UsageError` where there is neither."""
    if given is not None and not given.is_dir():
        raise UsageError(f"--data {given} is no directory")
    if given is not None:
        return given
    if not os.environ.get(DATA):
        raise UsageError(f"give the folder of the stored outputs with --data, or set {DATA}")
    return Path(os.environ[DATA]) / "data"


def _file(
    source: Source, file: Path, counter: TokenCounter, options: argparse.Namespace, root: Path
) -> Iterator[Mapping[str, Any]]:
    traces = read_traces(source, file, options.limit)
    new = counter.counts([trace.text for trace in traces])
    prompts = counter.counts([trace.prompt for trace in traces])
    counted = [Counted(*one) for one in zip(traces, prompts, new, strict=True)]
    model = traces[0].model
    joules = _joules(options, root, model)
    about = {
        "schema": SCHEMA,
        "source": source.name,
        "model": model,
        "tokens_by": counter.name,
        "prompt": source.prompt_note,
        "joules": None if joules is None else joules.note,
        "measured": False,
    }
    if not source.sampled:
        parts = {ALL: counted}
        for one in counted:
            parts.setdefault(one.trace.category, []).append(one)
        for category, these in parts.items():
            if category == ALL or (len(these) >= CATEGORY_QUESTIONS and len(these) < len(counted)):
                for point in budgets.curve(these, joules):
                    yield {**about, "kind": "budget", "category": category, **asdict(point)}
        return
    questions = votes.by_question(counted)
    for rule in votes.rules(min(len(samples) for samples in questions.values())):
        found = votes.replay(questions, rule, joules, seed=options.seed, orders=options.orders)
        yield {**about, "kind": "vote", "category": ALL, "policy": rule.name, **asdict(found)}


def _joules(options: argparse.Namespace, root: Path, model: str) -> Joules | None:
    if options.curve:
        return by_curve(options.curve)
    table = options.energy_table or root / "energy_ml_energy_v2" / "llm_text_generation.jsonl"
    if not table.exists() and not options.energy_table:
        return None
    return served(table, model, gpu=options.energy_gpu, batch=options.energy_batch)


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
