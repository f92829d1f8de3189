"""Table 1: accuracy and joules of a small model by technique, beside a large one, on MMLU's eight clusters.

    python -m bench.experiments.table1 --model org/small --large-model org/large --limit 50 --out table1.jsonl

Every question is asked with each technique before the next one, so that a drift of the machine is in all of
them; then the large model is asked directly. A run that was cut off goes on where it was; `--from` shows
again what files hold. Joules are of whole requests, gross. Models with a chat template are asked through it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.arguments import names, refuse_beside_from
from bench.benchmarks.mmlu import SPLITS
from bench.experiments import table1_picture
from bench.experiments.picture import wrapped
from bench.experiments.table1_record import Arm, Outcome, read
from bench.experiments.table1_run import LARGE, run
from bench.experiments.table1_table import columns, report
from bench.experiments.techniques import TECHNIQUES, Ask
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError
from engine.plot import check_plot
from engine.stop.names import AUTO, NONE, policy_named
from engine.strategy.prompts import NEW_TOKENS, STEPS, Directive

DEFAULT = ("direct", "vote", "cot", "cot+stop", LARGE)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    usual = Ask()
    cli = Parser(
        prog="bench.experiments.table1", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    cli.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME", help="the small model")
    cli.add_argument("--large-model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME")
    cli.add_argument("--random-weights", action="store_true", help="for presets; figures are then shape only")
    cli.add_argument("--mmlu", type=Path, metavar="PATH", help="directory, zip or tar; default: the Hub")
    cli.add_argument("--split", choices=SPLITS, default="test")
    cli.add_argument("--limit", type=int, metavar="N", help="questions a cluster, drawn by --seed")
    cli.add_argument("--techniques", type=names, default=DEFAULT, metavar=",".join((*TECHNIQUES, LARGE)))
    cli.add_argument(
        "--stop", action="append", default=[], metavar="auto|NAME|FILE:CLASS", help="policy of cot+stop"
    )
    cli.add_argument("--think-tokens", type=int, metavar="N", help="token budget of cot+stop")
    cli.add_argument("--samples", type=int, default=usual.samples, metavar="K", help="votes")
    cli.add_argument("--temperature", type=float, default=usual.temperature, metavar="T", help="of votes")
    cli.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help="written steps of cot; 0: no limit"
    )
    cli.add_argument("--max-new-tokens", type=int, default=NEW_TOKENS, metavar="N")
    cli.add_argument("--directive", type=Directive, choices=list(Directive), default=Directive.NONE)
    cli.add_argument("--chat", choices=("auto", "yes", "no"), default="auto", help="auto: with a template")
    cli.add_argument("--seed", type=int, default=usual.seed, metavar="N")
    cli.add_argument("--backend", default="auto", metavar="auto|gpu|cpu|torch")
    cli.add_argument("--device", metavar="N|cpu")
    cli.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    cli.add_argument("--quantize", metavar="none|int8|int4")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="a line for each question; resumable")
    cli.add_argument("--plot", type=Path, metavar="FILE.png")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="FILE.jsonl", help="run nothing")
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
        arms, outcomes = read(options.files)
    else:
        _check(options)
        arms, outcomes = run(options, arguments)
    return show(arms, outcomes, options.plot, options.out)


def show(arms: Sequence[Arm], outcomes: Sequence[Outcome], plot: Path | None, out: Path | None) -> int:
    """Tables, picture and the last line, from lines alone."""
    found, left_out = columns(arms, outcomes)
    table, told = report(found)
    origins = [_origin(column.arm) for column in found]
    worth = "; ".join(dict.fromkeys(_worth(column.arm) for column in found))
    refused = sum(o.error is not None for column in found for o in column.outcomes.values())
    if plot:
        below = wrapped(" ".join(dict.fromkeys(origins)), 200)
        table1_picture.draw(found, plot, worth, below)
    notes = [*left_out, *([f"{refused} questions could not be asked (they say why)"] if refused else [])]
    print(worth, table, "\n".join([*notes, *dict.fromkeys(origins)]), sep="\n\n", end="\n\n")
    last = {
        "schema": "tokenjoule.bench.table1/1",
        "measured": all(column.arm.measured for column in found),
        "shape_only": any(column.arm.shape_only for column in found),
        "refused": refused,
        "file": None if out is None else str(out),
        "techniques": told,
    }
    print(json.dumps(last))
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything is loaded. Raises `UsageError`."""
    known = (*TECHNIQUES, LARGE)
    unknown = [technique for technique in options.techniques if technique not in known]
    if unknown or not options.techniques:
        raise UsageError(f"unknown technique {', '.join(unknown)!r}; there are {', '.join(known)}")
    if set(options.techniques) != {LARGE} and options.model is None:
        raise UsageError("name the small model with --model, or files with --from")
    if LARGE in options.techniques and options.large_model is None:
        raise UsageError("the technique large needs --large-model; leave it out with --techniques")
    for name in options.stop:
        if name not in (AUTO, NONE):
            policy_named(name)
    for name in ("limit", "samples", "max_new_tokens", "think_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if options.steps < 0 or not options.temperature > 0:
        raise UsageError("--steps must not be negative, and --temperature must be more than 0")


def _worth(arm: Arm) -> str:
    kind = "measured by" if arm.measured else "NOT MEASURED:"
    weights = "; shape only: random weights, so accuracy means nothing" if arm.shape_only else ""
    return f"{arm.model}: joules {kind} {arm.energy_source}{weights}"


def _origin(arm: Arm) -> str:
    commit = (arm.stamp["commit"] or "unknown")[:9] + (" with changes" if arm.stamp["dirty"] else "")
    settings = ", ".join(f"{name} {value}" for name, value in arm.settings.items())
    where = f"{arm.device}, {arm.stamp['cores']} cores, {arm.stamp['utc'][:10]}"
    return f"{arm.technique}: {arm.model} on {where}, commit {commit}; {settings}."


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
