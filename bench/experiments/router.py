"""Routers against fixed arms, random mixes, agreement of two and the oracle, on what the arms gave.

    python -m bench.experiments.router OUTCOMES.jsonl… --out RUNS.jsonl --plot router.png
    python -m bench.experiments.router TEST.jsonl… --fit DEVELOPMENT.jsonl CALIBRATION.jsonl… --out RUNS.jsonl
    python -m bench.experiments.router --from RUNS.jsonl

Reads outcomes (`tokenjoule.outcome/1`: one line for each question and arm, as
`python -m bench.routing.stored` makes of stored outputs) and runs no model. Questions are split five ways for
each seed, so that each is tested by what others taught; with --fit all of a test bed's test questions
(`python -m bench.routing.testbed`) are tested by what the others taught, reading them for features is
charged, and --series plays a queue, an hour's joules and a recorded grid intensity. Where questions have
categories, each kind of task is tried once by what the others taught. Joules are those of the outcomes, and
what they are worth is said.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.arguments import refuse_beside_from
from bench.record import Record, Stamp, append, read
from bench.routing.checks import RESPLITS
from bench.routing.picture import draw
from bench.routing.reading import beside, read_readings
from bench.routing.record import BENCHMARK, FROZEN, VERDICT, Study, records
from bench.routing.study import frozen_study, studied
from bench.routing.table import router_tables, studies
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError
from engine.plot import check_plot
from engine.predict.outcomes import Outcome, read_outcomes

SCHEMA = "tokenjoule.bench.router/1"
SEEDS = 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(
        prog="bench.experiments.router", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    cli.add_argument("outcomes", type=Path, nargs="*", default=[], metavar="OUTCOMES.jsonl")
    cli.add_argument(
        "--fit", type=Path, nargs="+", default=[], metavar="OUTCOMES.jsonl", help="learn from these alone"
    )
    cli.add_argument(
        "--deciding-joules",
        type=float,
        metavar="J",
        help="with --fit: of choosing an arm (bench.router_overhead tells it)",
    )
    cli.add_argument("--series", type=Path, metavar="FILE.csv", help="with --fit: recorded grid intensity")
    cli.add_argument("--arms", metavar="NAME,…", help="only these arms of the files")
    cli.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="splits of the questions")
    cli.add_argument("--resplits", type=int, default=RESPLITS, metavar="N", help="of the certificate")
    cli.add_argument("--jobs", type=int, default=1, metavar="N", help="files, or with --fit seeds, at once")
    cli.add_argument("--out", type=Path, metavar="RUNS.jsonl", help="records are added to it")
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="RUNS.jsonl", help="run nothing")
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
        made = [record for record in read(options.files) if record.benchmark in (BENCHMARK, FROZEN)]
    else:
        made = _run(options, arguments)
    if not made:
        raise UsageError("the files hold no records of the router's study")
    if options.plot:
        draw(made, options.plot)
    print(router_tables(made), end="\n\n")
    print(json.dumps(summary(made)), flush=True)
    return 0


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> list[Record]:
    if not options.outcomes:
        raise UsageError("name a file of outcomes, or one of records with --from")
    if not options.fit and (options.deciding_joules is not None or options.series):
        raise UsageError("--deciding-joules and --series go with --fit")
    if min(options.seeds, options.resplits, options.jobs) < 1:
        raise UsageError("--seeds, --resplits and --jobs must be at least 1")
    where = stamp("bench.experiments.router", arguments, torch.device("cpu"))
    study = partial(of_file, arms=options.arms, seeds=options.seeds, resplits=options.resplits, where=where)
    if options.fit:
        made = list(records(_frozen(options), where))
    elif options.jobs == 1:
        made = [record for file in options.outcomes for record in study(file)]
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            made = [record for found in pool.map(study, options.outcomes) for record in found]
    if options.out:
        append(options.out, made)
    return made


def of_file(file: Path, *, arms: str | None, seeds: int, resplits: int, where: Stamp) -> list[Record]:
    """The records of one file of outcomes."""
    _say(f"{file.name}: reading")
    found = studied(file.stem, _chosen(read_outcomes(file), arms), seeds, resplits, _say)
    return list(records(found, where))


def _frozen(options: argparse.Namespace) -> Study:
    """Of the test questions in all files together."""
    if options.deciding_joules is None or not 0 <= options.deciding_joules < math.inf:
        raise UsageError("--fit needs --deciding-joules, a number of at least 0: choosing is not free")
    fit, test = (
        _chosen([one for file in files for one in read_outcomes(file)], options.arms)
        for files in (options.fit, options.outcomes)
    )
    readings = read_readings([beside(file) for file in (*options.fit, *options.outcomes)])
    return frozen_study(
        options.outcomes[0].stem,
        fit,
        test,
        readings,
        seeds=options.seeds,
        resplits=options.resplits,
        deciding_j=options.deciding_joules,
        series=options.series,
        jobs=options.jobs,
        say=_say,
    )


def _chosen(outcomes: list[Outcome], arms: str | None) -> list[Outcome]:
    if arms is None:
        return outcomes
    wanted = arms.split(",")
    known = {one.arm for one in outcomes}
    if missing := [name for name in wanted if name not in known]:
        raise UsageError(f"there is no arm {missing[0]!r}; the file has {', '.join(sorted(known))}")
    return [one for one in outcomes if one.arm in wanted]


def summary(made: Sequence[Record]) -> dict[str, object]:
    """The last line of stdout."""
    return {
        "schema": SCHEMA,
        "measured": all(r.derived["energy"].measured for r in made if "energy" in r.derived),
        "studies": {
            name: {
                record.arm.name: {key: value.value for key, value in record.derived.items()}
                for record in these
                if record.group == VERDICT
            }
            for name, these in studies(made).items()
        },
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
