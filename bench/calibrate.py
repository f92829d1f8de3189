"""Where thinking stops paying, on one model: logs forced answers at checkpoints and fits the stopping rule.

    python -m bench.calibrate --model DIR --questions 500 --out LOG.jsonl   runs questions, then fits
    python -m bench.calibrate --from LOG.jsonl                              fits what was run

The rule goes into the operating curve of the model on this device (`bench.curves` fits one), by which the
joules are told, and where `--stop auto` finds it. Progress goes to stderr; what --out holds is not run again.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

from bench.arguments import add_engine, refuse_beside_from
from bench.calibration import log
from bench.calibration.fit import Finding, accuracy_by_joules, by_category, find, fit_rule
from bench.calibration.log import Trace
from bench.calibration.priced import Pricer
from bench.calibration.replay import at_stops, replay_all
from bench.calibration.report import findings_table
from bench.calibration.run import entries_of
from bench.calibration.states import layers_of
from bench.calibration.tasks import questions, refuse_test
from bench.testbed.question import Question
from engine.cli import Parser, guarded, leave
from engine.energy.curve import OperatingCurve
from engine.energy.curve_store import load_curve, save_curve, user_curves
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.price import price_for_budget
from engine.stop.rule import StoppingRule

SCHEMA = "tokenjoule.bench.calibrate/1"
_TELL_S = 5.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.calibrate", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    ran = cli.add_argument_group("what to run")
    add_engine(ran)
    ran.add_argument("--tasks", metavar="testbed[:CATEGORY,…]", help="default: all of the test bed")
    ran.add_argument("--split", metavar="NAME", help="default: calibration")
    ran.add_argument("--questions", type=int, metavar="N", help="of each category (default 500)")
    ran.add_argument("--out", type=Path, metavar="LOG.jsonl", help="the checkpoint log; resumable")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="LOG.jsonl", help="run nothing")
    cli.add_argument(
        "--curve", type=Path, metavar="FILE.json", help="the operating curve (default: the cache's)"
    )
    cli.add_argument("--probes", action="store_true", help="let the rule probe at every checkpoint")
    cli.add_argument("--price-joules", type=float, metavar="L", help="tell findings at this price")
    cli.add_argument(
        "--mean-joules", type=float, metavar="J", help="the rule's price is the one that spends J a question"
    )
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (needs matplotlib)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    _check(options)
    if options.files:
        traces = log.read(options.files)
        path, curve = curve_of(traces, options.curve)
    else:
        traces, path, curve = run(options)
    rule = fit_rule(traces, probes=options.probes, say=_say)
    if not rule.price:
        _say("no price is certain to lose a point at most: the default is 0, which saves no joules that help")
    if options.mean_joules is not None:
        rule = replace(rule, price=_price_of(traces, rule, options.mean_joules))
    price = rule.price if options.price_joules is None else options.price_joules
    parts = by_category(traces)
    findings = [find(name, part, rule.categories[name].axes, price) for name, part in parts.items()]
    kept = save_curve(replace(curve, stopping=rule, accuracy=accuracy_by_joules(findings)), path)
    if options.plot:
        from bench.calibration.figure import draw

        draw(findings, parts, replace(rule, price=price), options.plot)
    print(findings_table(findings, replace(rule, price=price)), end="\n\n")
    print(json.dumps(summary(findings, rule, price, kept)), flush=True)
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything has run."""
    if options.files:
        refuse_beside_from(parser(), options, kept=("curve", "probes", "price_joules", "mean_joules"))
    if not options.files and options.out is None:
        raise UsageError("name the checkpoint log with --out, or one that was made before with --from")
    if options.questions is not None and options.questions < 1:
        raise UsageError(f"--questions must be at least 1, not {options.questions}")
    price = options.price_joules
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise UsageError(f"--price-joules must be a number of at least 0, not {price}")
    if options.mean_joules is not None and not (
        math.isfinite(options.mean_joules) and options.mean_joules > 0
    ):
        raise UsageError(f"--mean-joules must be positive, not {options.mean_joules}")
    refuse_test({options.split or "calibration"})
    if options.plot:
        from engine.plot import check_plot

        check_plot(str(options.plot))


def _price_of(traces: Sequence[Trace], rule: StoppingRule, mean_j: float) -> float:
    """In points per joule. Raises `UsageError` for a mean that no price comes down to."""

    def spent_j(price: float) -> float:
        return float(replay_all(traces, rule, price).energy_j.mean())

    if spent_j(0.0) <= mean_j:
        return 0.0
    price = price_for_budget(spent_j, mean_j)
    if math.isinf(price):
        least_j = at_stops(traces, [0] * len(traces)).energy_j.mean()
        raise UsageError(
            f"--mean-joules {mean_j:g}: no price brings the mean down to that; answering at once takes "
            f"{least_j:.3g} J"
        )
    return price


def run(options: argparse.Namespace) -> tuple[list[Trace], Path | None, OperatingCurve]:
    """Ask what the log does not hold yet: all its runs, and the curve that their joules are of.

    Raises `TokenjouleError` where there is no curve.
    """
    split = options.split or "calibration"
    asked = questions(options.tasks or "testbed", split, options.questions or 500)
    with load_engine(options) as engine:
        curve = curve_for(engine)
        collect(engine, Pricer(curve), asked, split, options.out)
    return log.read([options.out]), options.curve, curve


def load_engine(options: argparse.Namespace) -> Engine:
    """That of `bench.arguments.add_engine` and --curve."""
    return Engine.load(
        options.model,
        backend=options.backend or "auto",
        device=options.device,
        dtype=options.dtype or "auto",
        quantize=options.quantize,
        energy_source=options.energy_source or "auto",
        curve=options.curve or "auto",
    )


def curve_for(engine: Engine) -> OperatingCurve:
    """The engine's. Raises `TokenjouleError` without one."""
    if engine.curve is None:
        raise TokenjouleError(
            f"no operating curve tells the joules of {engine.origin.card.id} here; first: "
            "python -m bench.curves --minutes 2, with the same --model"
        )
    return engine.curve


def _require(curve: OperatingCurve, model: str, quantization: str) -> None:
    """Raises `UsageError`."""
    if (curve.fits.model, curve.fits.quantization) != (model, quantization):
        raise UsageError(
            f"the operating curve is of {curve.fits.model} {curve.fits.quantization}, not of "
            f"{model} {quantization}"
        )


def collect(
    engine: Engine,
    pricer: Pricer,
    asked: Sequence[Question],
    split: str,
    out: Path,
    layers: Sequence[int] = (),
) -> None:
    """Add the entries of every question that the log lacks, with the states behind these layers.

    Raises `UsageError` for a log of another model or other joules, or of runs without those states.
    """
    log.mend(out)
    known = log.read([out]) if out.exists() else []
    card, source = engine.origin.card, pricer.source
    for end in (trace.end for trace in known):
        if (end.model, end.quantization, end.energy_source) != (card.id, card.quantization, source):
            raise UsageError(f"{out} holds runs of {end.model} {end.quantization} by {end.energy_source}")
    if layers and any(trace.checkpoints for trace in known) and not set(layers) <= set(layers_of(known)):
        raise UsageError(f"{out} holds runs without the states behind layers {', '.join(map(str, layers))}")
    done = {(trace.end.category, trace.end.seed) for trace in known}
    due = [q for q in asked if (q.category, q.seed) not in done]
    if due:
        log.refuse_packed(out)
    _say(f"{len(due)} questions to run, {len(asked) - len(due)} in {out}")
    told_s = monotonic()
    for number, question in enumerate(due):
        log.append(out, entries_of(engine, pricer, question, split, layers))
        if monotonic() - told_s >= _TELL_S:
            told_s = monotonic()
            _say(f"{number + 1} of {len(due)} questions")


def curve_of(traces: Sequence[Trace], path: Path | None) -> tuple[Path | None, OperatingCurve]:
    """The curve that a log's rule belongs into: the one given, or the cache's only one of its model.

    Raises `UsageError` where that does not tell.
    """
    if not traces:
        raise TokenjouleError("the log holds no runs")
    end = traces[0].end
    if path is not None:
        curve = load_curve(path)
        _require(curve, end.model, end.quantization)
        if Pricer(curve).source != end.energy_source:
            raise UsageError(
                f"the log's joules are by {end.energy_source}, not by {Pricer(curve).source}, in whose "
                "curve the rule would be kept"
            )
        return path, curve
    found = []
    for file in sorted(user_curves().glob("*.json")):
        curve = load_curve(file)
        same = (curve.fits.model, curve.fits.quantization) == (end.model, end.quantization)
        if same and Pricer(curve).source == end.energy_source:
            found.append((file, curve))
    if len(found) != 1:
        raise UsageError(
            f"{len(found) or 'no'} operating curves of {end.model} {end.quantization} are kept here: "
            "name the right one with --curve"
        )
    return found[0]


def summary(findings: Sequence[Finding], rule: StoppingRule, price: float, kept: Path) -> dict[str, object]:
    """The last line of stdout."""
    return {
        "schema": SCHEMA,
        "model": rule.model,
        "runs": rule.runs,
        "price": price,
        "kept": str(kept),
        "categories": {
            found.category: {
                "runs": len(found.grid.clusters),
                "best_j": found.best_j,
                "best_interval_j": found.best_interval_j,
                "regret": found.regret,
                "regret_interval": found.regret_interval,
                "safe_budget": found.safe_budget,
                "saturating": None if found.saturating is None else asdict(found.saturating),
                "saved": found.saved,
                "lost": found.lost,
                "lost_interval": found.lost_interval,
            }
            for found in findings
        },
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
