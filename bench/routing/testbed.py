"""Has models answer the test bed in every way that a router may choose: outcomes, with joules by a curve.

    python -m bench.routing.testbed --model bundled:testbed-s --curve S.json --out OUTCOMES.jsonl
    python -m bench.routing.testbed … --model DIR --curve L.json        one model more
    python -m bench.routing.testbed … --split test --reason "…" --tasks testbed:chain,verify

Every model answers at once, thinks within four token budgets, and votes within three. The smallest of them
reads each question first, for features; that stands in OUTCOMES.readings.jsonl. What --out holds is not run
again. Two processes share the work by --tasks. The test split opens to frozen curves alone
(`bench.testbed.splits`).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic

from bench.arguments import counts
from bench.calibrate import curve_for
from bench.calibration.priced import Pricer
from bench.calibration.tasks import categories_of
from bench.routing import reading
from bench.routing.asked import Asked, question_id, read_question, tell
from bench.routing.ways import BUDGETS, SAMPLES, VOTE_BUDGETS, Way, arm_name, ways
from bench.tables import markdown
from bench.testbed.question import Question
from bench.testbed.splits import SEALED, open_split
from engine.cli import Parser, guarded, leave
from engine.engine import Engine
from engine.errors import UsageError
from engine.line_file import add, alone, mend
from engine.predict.outcomes import Outcome, lines_of, read_outcomes

SCHEMA = "tokenjoule.bench.testbed/1"
_TELL_S = 5.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(
        prog="bench.routing.testbed", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    cli.add_argument(
        "--model", action="append", required=True, metavar="DIR|bundled:NAME", help="may be repeated"
    )
    cli.add_argument(
        "--curve", action="append", type=Path, default=[], metavar="FILE.json", help="of each model, in turn"
    )
    cli.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"), default="auto")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE", help="of the raw joules beside")
    cli.add_argument("--tasks", default="testbed", metavar="testbed[:CATEGORY,…]")
    cli.add_argument("--split", default="calibration", metavar="NAME")
    cli.add_argument("--reason", metavar="TEXT", help="why the test split is opened; goes on record")
    cli.add_argument("--questions", type=int, default=500, metavar="N", help="of each category")
    cli.add_argument(
        "--after", type=int, default=0, metavar="N", help="of each category, so many are passed by"
    )
    cli.add_argument("--budgets", type=counts, default=BUDGETS, metavar="N,…", help="tokens of thinking")
    cli.add_argument(
        "--vote-budgets", type=counts, default=VOTE_BUDGETS, metavar="N,…", help="of each sample"
    )
    cli.add_argument("--samples", type=int, default=SAMPLES, metavar="K", help="of a vote")
    cli.add_argument("--out", type=Path, required=True, metavar="OUTCOMES.jsonl", help="resumable")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    chosen = ways(options.budgets, options.vote_budgets, options.samples)
    if options.curve and len(options.curve) != len(options.model):
        raise UsageError(f"{len(options.model)} models and {len(options.curve)} curves: each needs its own")
    if options.split == SEALED and not options.curve:
        raise UsageError(f"the {SEALED} split opens to frozen curves only: name their files with --curve")
    asked = open_split(
        options.split,
        per_category=options.questions,
        after=options.after,
        categories=categories_of(options.tasks),
        reason=options.reason,
        fitted=options.curve,
    )
    with ExitStack() as open_engines:
        models = [
            _asked(
                open_engines.enter_context(
                    Engine.load(
                        name,
                        backend=options.backend,
                        energy_source=options.energy_source,
                        curve=options.curve[at] if options.curve else "auto",
                    )
                )
            )
            for at, name in enumerate(options.model)
        ]
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise UsageError(f"two models are called alike: {', '.join(names)}")
        with alone(options.out):
            collect(models, chosen, asked, options.split, options.out)
    print(table(read_outcomes(options.out)), end="\n\n")
    arms = [arm_name(model.name, way) for model in models for way in chosen]
    print(json.dumps({"schema": SCHEMA, "split": options.split, "questions": len(asked), "arms": arms}))
    return 0


def _asked(engine: Engine) -> Asked:
    name = engine.origin.card.id.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    found = curve_for(engine)
    return Asked(name, engine, Pricer(found), reading.curve_digest(found))


def collect(
    models: Sequence[Asked], ways: Sequence[Way], asked: Sequence[Question], split: str, out: Path
) -> None:
    """Every arm on each question that `out` lacks it of, question by question. Raises `TokenjouleError`."""
    side = reading.beside(out)
    for path in (out, side):
        mend(path, '{"schema":', "a line of ours")
    known = read_outcomes(out) if out.exists() and out.stat().st_size else []
    readings = reading.read_readings([side]) if side.exists() else {}
    _refuse_others(known, models, out)
    _refuse_curves(readings, models, side)
    done = {(one.question, one.arm) for one in known}
    reader = min(models, key=lambda model: model.engine.origin.card.parameters)
    due = [(question, lacking) for question in asked if (lacking := _lacking(question, models, ways, done))]
    _say(f"{len(due)} questions to run, {len(asked) - len(due)} in {out}")
    told_s = monotonic()
    for number, (question, lacking) in enumerate(due, 1):
        began = read_question(reader, question, split)
        before = readings.get(began.question)
        told = [one for model, ways in lacking for one in tell(model, question, ways)]
        booked = {one.outcome.arm: one.ledger_j for one in told}
        curves = {model.name: model.curve for model in models if model.curve}
        ledger_j = {**(before.ledger_j if before else {}), **began.ledger_j, **booked}
        reading.append(side, replace(began, ledger_j=ledger_j, curves=curves))  # first: none is without one
        add(out, lines_of(one.outcome for one in told))
        if monotonic() - told_s >= _TELL_S:
            told_s = monotonic()
            _say(f"{number} of {len(due)} questions")


def _lacking(
    question: Question, models: Sequence[Asked], ways: Sequence[Way], done: Set[tuple[str, str]]
) -> list[tuple[Asked, list[Way]]]:
    """Of each model, the ways that it was not asked in; models that lack none are left out."""
    told = question_id(question)
    due = (
        (model, [way for way in ways if (told, arm_name(model.name, way)) not in done]) for model in models
    )
    return [(model, some) for model, some in due if some]


def _refuse_others(known: Sequence[Outcome], models: Sequence[Asked], out: Path) -> None:
    """Raises `UsageError` for joules by other curves than the ones at hand."""
    source = {model.name: model.pricer.source for model in models}
    for one in known:
        name = one.arm.rpartition("/")[0]
        if source.get(name, one.energy_source) != one.energy_source:
            raise UsageError(f"{out} holds joules of {one.arm} by {one.energy_source}, not by {source[name]}")


def _refuse_curves(known: Mapping[str, reading.Reading], models: Sequence[Asked], side: Path) -> None:
    """Raises `UsageError` for joules by another curve, which may be of the same device and source."""
    told = reading.one_curve(known.values())
    for model in models:
        if model.curve and (digest := told.get(model.name, model.curve)) != model.curve:
            raise UsageError(
                f"{side} tells joules of {model.name} by the curve {digest}, not by {model.curve}"
            )


def table(outcomes: Sequence[Outcome]) -> str:
    """Of each arm: questions, share right, tokens, joules by the curve."""
    rows = []
    for arm in dict.fromkeys(one.arm for one in outcomes):
        these = [one for one in outcomes if one.arm == arm]
        n = len(these)
        rows.append(
            [
                arm,
                str(n),
                f"{sum(one.correct or 0 for one in these) / n:.1%}",
                f"{sum(one.new_tokens for one in these) / n:.1f}",
                f"{sum(one.energy_j or 0.0 for one in these) / n:.3g}",
                f"{sum(one.elapsed_s or 0.0 for one in these) / n:.3g}",
            ]
        )
    return markdown(("Arm", "questions", "right", "new tokens", "J by the curve", "s"), rows)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
