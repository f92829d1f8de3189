"""The arena of stop policies: each against fixed and random budgets, shuffled stops and oracles, at equal
joules.

    python -m bench.experiments.stop --model DIR --questions 100 --log LOG.jsonl --out RUNS.jsonl
    python -m bench.experiments.stop … --policy FILE.py:CLASS      one policy more, a user's own
    python -m bench.experiments.stop --from RUNS.jsonl --log LOG.jsonl [--plot FILE.png] [--update FILE.md]

Policies really run, with their probes on the bill; what could have been comes from a checkpoint log of the
same questions, which is made first where it lacks some. docs/stopping.md has the method and both formats.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from bench.arena import outcomes
from bench.arena.arms import FULL, Arm, arm, usual
from bench.arena.compare import Arena, parts, setting_of
from bench.arena.headline import headline
from bench.arena.play import play
from bench.arena.scores import Estimate, Score
from bench.arena.table import tables
from bench.arguments import add_engine, refuse_beside_from
from bench.calibrate import collect, curve_for, load_engine
from bench.calibration import log
from bench.calibration.log import Trace
from bench.calibration.priced import Pricer
from bench.calibration.tasks import questions
from bench.markers import fill
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.energy.curve_store import load_curve
from engine.errors import UsageError
from engine.stop.rule import StoppingRule

SCHEMA = "tokenjoule.bench.stop/1"
PARTS = ("stop", "policies")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.experiments.stop", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    ran = cli.add_argument_group("what to run")
    add_engine(ran)
    ran.add_argument("--tasks", metavar="testbed[:CATEGORY,…]", help="default: all of the test bed")
    ran.add_argument("--split", metavar="NAME", help="default: development")
    ran.add_argument("--reason", metavar="TEXT", help="why the test split is opened; goes on record")
    ran.add_argument("--questions", type=int, metavar="N", help="of each category (default 100)")
    ran.add_argument("--policy", action="append", metavar="NAME|FILE.py:CLASS", help="one arm more")
    ran.add_argument("--only", action="append", metavar="ARM", help="full and these, not the usual")
    ran.add_argument("--out", type=Path, metavar="RUNS.jsonl", help="what the arms did; resumable")
    cli.add_argument("--log", type=Path, required=True, metavar="LOG.jsonl", help="checkpoint log; resumable")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="RUNS.jsonl", help="run nothing")
    cli.add_argument("--curve", type=Path, metavar="FILE.json", help="curve with rule (default: the cache's)")
    cli.add_argument("--price-joules", type=float, metavar="L", help="tell utilities at this price")
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    cli.add_argument("--update", type=Path, metavar="FILE.md", help="write its part, <!-- bench:PART -->")
    cli.add_argument("--part", choices=PARTS, default=PARTS[0], help="of --update (default: stop)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


@dataclass(frozen=True)
class _Made:
    """What is there to compare."""

    traces: list[Trace]
    played: list[outcomes.Played]
    rule: StoppingRule | None


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    _check(options)
    made = _read(options) if options.files else _run(options, arguments)
    setting = setting_of(made.traces, made.played)
    source = setting[2]
    arenas = parts(made.traces, made.played, _price(options, made), made.rule)
    if options.plot:
        from bench.arena.picture import draw

        draw(arenas, f"Where thinking stops: {made.played[0].model}. Joules: {source}", options.plot)
    if options.update:
        fill(options.update, {options.part: partial(headline, arenas, setting)})
    print(tables(arenas, source), end="\n\n")
    print(json.dumps(summary(arenas, source), allow_nan=False), flush=True)
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.files:
        refuse_beside_from(parser(), options, kept=("log", "curve", "price_joules", "update", "part"))
    if not options.files and options.out is None:
        raise UsageError("name the file for what the arms do with --out, or one made before with --from")
    if options.questions is not None and options.questions < 1:
        raise UsageError(f"--questions must be at least 1, not {options.questions}")
    if options.price_joules is not None and not options.price_joules >= 0:
        raise UsageError(f"--price-joules must be a number of at least 0, not {options.price_joules}")
    if options.part != PARTS[0] and options.update is None:
        raise UsageError("--part says what --update writes, and there is no --update")
    if options.plot:
        from engine.plot import check_plot

        check_plot(str(options.plot))


def _read(options: argparse.Namespace) -> _Made:
    played = outcomes.read(options.files)
    if not played:
        raise UsageError("the files hold no outcomes")
    rule = load_curve(options.curve).stopping if options.curve else None
    counts = Counter(line.arm for line in played)
    full = {(line.category, line.seed) for line in played if line.arm == FULL}
    for name in [name for name, count in counts.items() if full and count < len(full)]:
        _say(f"{name} is left out: it played {counts[name]} of {len(full)} questions")
    # A log may hold more questions than were played: of 800 a category the first 200, say.
    traces = [t for t in log.read([options.log]) if not full or (t.end.category, t.end.seed) in full]
    return _Made(traces, played, rule)


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> _Made:
    split = options.split or "development"
    tasks, count = options.tasks or "testbed", options.questions or 100
    asked = questions(tasks, split, count, reason=options.reason, curve=options.curve)
    with load_engine(options) as engine:
        curve = curve_for(engine)
        arms = _arms(options, curve.stopping)
        pricer, where = Pricer(curve), stamp("bench.experiments.stop", arguments, engine.model.backend.device)
        collect(engine, pricer, asked, split, options.log)
        play(engine, pricer, arms, asked, split=split, run=where.run, out=options.out, say=_say)
    wanted = {(question.category, question.seed) for question in asked}
    traces = [t for t in log.read([options.log]) if (t.end.category, t.end.seed) in wanted]
    names = {arm.name for arm in arms}
    played = [
        line
        for line in outcomes.read([options.out])
        if line.arm in names and (line.category, line.seed) in wanted
    ]
    return _Made(traces, played, curve.stopping)


def _arms(options: argparse.Namespace, rule: StoppingRule | None) -> list[Arm]:
    names = ["full", *(options.only or usual(rule)), *(options.policy or [])]
    return [arm(name, rule) for name in dict.fromkeys(names)]


def _price(options: argparse.Namespace, made: _Made) -> float:
    """At which utilities are told: the one given, else what the rule played at.

    Raises `UsageError` where neither is known.
    """
    if options.price_joules is not None:
        return float(options.price_joules)
    played = next((line.price for line in made.played if line.arm == "marginal-value"), None)
    price = played if played is not None else made.rule.price if made.rule else None
    if price is None:
        raise UsageError("no rule played, so utilities have no price: give one with --price-joules")
    return price


def summary(arenas: Sequence[Arena], source: str) -> dict[str, object]:
    """The last line of stdout."""
    return {
        "schema": SCHEMA,
        "source": source,
        "price": arenas[0].price,
        "categories": {
            arena.category: {
                "questions": len(arena.grid.clusters),
                "arms": {line.name: _told(line.score) for line in arena.lines},
                "permuted": _told(arena.permuted),
                "permuted_within": _told(arena.permuted_within),
                "over_fixed": _told(arena.over_fixed),
                "replay": arena.replay,
                "verify_regret": None if arena.verify is None else arena.verify.share,
            }
            for arena in arenas
        },
    }


def _told(found: Score | Estimate | None) -> dict[str, object] | None:
    """Its fields; null, as JSON has no NaN, where one has no meaning."""
    if found is None:
        return None
    told: dict[str, object] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if isinstance(value, Estimate):
            told[field.name] = _told(value)
        else:
            told[field.name] = None if math.isnan(value) else value
    return told


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
