"""`python -m router.route "QUESTION" --explain`: which arm answers it, why, and what that took.

stdout is the answer (`--json`: one object); stderr says the rest. Exit status: 0 answered, 1 not, 2 usage.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.cli import Parser, guarded, leave, seed
from engine.energy.grid import AVERAGE, MARGINAL, Grid, Intensity
from engine.energy.hourly import HourlyBudget
from engine.errors import TokenjouleError, UsageError
from engine.prompts import Item, read_items
from engine.result import format_j
from router.arms import DEFAULT, load_arms
from router.estimator import Estimator
from router.policy import Conditions, Limits
from router.router import Routed, Router


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python -m router.route", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("query", nargs="?")
    cli.add_argument("--prompts", metavar="FILE.jsonl", help='many, {"prompt": "…"} a line; answers as JSON')
    cli.add_argument("--arms", type=Path, default=DEFAULT, metavar="arms.toml")
    cli.add_argument("--estimator", type=Path, metavar="FILE.npz", help="of router.calibrate")
    cli.add_argument("--category", metavar="NAME", help="of the question, where it is known")
    cli.add_argument("--seed", type=seed, default=0, metavar="S")
    limit = cli.add_argument_group("objective and limits").add_argument
    limit("--min-accuracy", type=float, metavar="A", help="the least joules that keep this accuracy")
    limit("--price-joules", type=float, default=0.0, metavar="L", help="accuracy points a joule must gain")
    limit("--budget-joules", type=float, metavar="J", help="for this query")
    limit("--hourly-joules", type=float, metavar="J", help="for all queries of this process in an hour")
    limit("--max-latency", type=float, metavar="S")
    limit("--max-grams", type=float, metavar="G", help="of CO2e; needs --carbon")
    limit("--strict", action="store_true", help="no answer where no arm keeps the limits")
    now = cli.add_argument_group("conditions").add_argument
    now("--queue", type=int, default=0, metavar="N", help="requests that wait")
    now("--utilisation", type=float, default=0.0, metavar="U", help="of the device, 0 to 1")
    now("--carbon", metavar="G|FILE.csv|electricitymaps:ZONE|uk", help="g CO2e per kWh")
    now("--carbon-kind", choices=(AVERAGE, MARGINAL), help="default: average")
    now("--carbon-usual", type=float, metavar="G", help="beyond it, budgets tighten")
    now("--pue", type=float, metavar="P", help="the data centre's overhead (default 1)")
    machine = cli.add_argument_group("machine").add_argument
    machine("--energy-source", default="auto", metavar="SOURCE")
    machine("--memory-gb", type=float, metavar="GB", help="for the weights of local models")
    cli.add_argument("--explain", action="store_true", help="every arm's estimates, and why the winner won")
    cli.add_argument("--json", action="store_true")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return guarded(lambda: _run(parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    if (options.query is None) == (options.prompts is None):
        raise UsageError("give exactly one of a query and --prompts")
    of_carbon = (options.max_grams, options.carbon_usual, options.carbon_kind, options.pue)
    if options.carbon is None and of_carbon != (None,) * 4:
        raise UsageError("--max-grams, --carbon-usual, --carbon-kind and --pue go with --carbon")
    if options.min_accuracy is not None and not 0 < options.min_accuracy < 1:
        raise UsageError(f"--min-accuracy must lie between 0 and 1, not {options.min_accuracy}")
    arms, estimator, notes = load_arms(options.arms), None, []
    if options.estimator is not None:
        try:
            estimator = Estimator.load(options.estimator)
        except TokenjouleError as error:
            notes.append(str(error))
    limits, usual = _limits(options, _threshold(options.min_accuracy, estimator, notes))
    grid = None if options.carbon is None else Grid(options.carbon, options.carbon_kind or AVERAGE)
    asked = [Item(0, options.query)] if options.prompts is None else read_items(options.prompts)
    hour = None if options.hourly_joules is None else HourlyBudget(options.hourly_joules)
    failures = []
    source, memory_gb = options.energy_source, options.memory_gb
    with Router(arms, estimator, energy_source=source, memory_gb=memory_gb, hour=hour) as router:
        for item in asked:
            told = Intensity(None) if grid is None else grid.now()
            now = replace(usual, intensity_g_per_kwh=told.g_per_kwh)
            category = item.category or options.category
            routed = router.answer(item.prompt, limits, now, category=category, seed=options.seed)
            routed.notes[:0] = [*notes, *told.notes]
            if options.json or options.prompts is not None:
                print(json.dumps({"id": item.id, **routed.to_json()}), flush=True)
            else:
                print(routed.answer or "")
                print("\n".join(explained(routed) if options.explain else [summary(routed)]), file=sys.stderr)
            if routed.answer is None:
                why = "no arm answered" if routed.stages else routed.choices[-1].why
                failures.append("; ".join([why, *routed.notes]))
    if failures:
        raise TokenjouleError(failures[0] if len(asked) == 1 else f"{len(failures)} queries have no answer")
    return 0


def _threshold(accuracy: float | None, estimator: Estimator | None, notes: list[str]) -> float | None:
    """Of p, for an answer of this accuracy: what is certified for it, else the same, and a note."""
    certificate = None if estimator is None else estimator.certificate
    if accuracy is None:
        return None
    if certificate is None or certificate.target < accuracy:
        notes.append("this accuracy is not certified: each answer is believed to have it, by estimate")
    elif math.isnan(certificate.threshold):
        notes.append(f"no threshold is certified for an accuracy of {certificate.target}")
    else:
        return certificate.threshold
    return accuracy


def _limits(options: argparse.Namespace, threshold: float | None) -> tuple[Limits, Conditions]:
    """And what else is as the command line says. Raises `UsageError`."""
    try:
        limits = Limits(
            joules=options.budget_joules,
            latency_s=options.max_latency,
            grams=options.max_grams,
            threshold=threshold,
            price=options.price_joules,
            strict=options.strict,
        )
        usual_g, pue = options.carbon_usual, 1.0 if options.pue is None else options.pue
        return limits, Conditions(options.queue, options.utilisation, usual_g_per_kwh=usual_g, pue=pue)
    except ValueError as error:
        raise UsageError(str(error)) from error


def summary(routed: Routed) -> str:
    """One line: who answered, for what."""
    energy = routed.energy()
    arm = "nobody" if routed.answered_by is None else routed.stages[routed.answered_by].arm
    kind = "measured" if energy["measured"] else f"not measured: {energy['source'] or 'no source'}"
    parts = [f"{name} {format_j(energy[f'{name}_j'])}" for name in ("router", "features", "failed", "answer")]
    whole = "" if energy["complete"] else " at least"
    line = f"{arm}:{whole} {format_j(energy['total_j'])} J ({', '.join(parts)}; {kind})"
    grams = [] if routed.grams is None else [f"{routed.grams:.3g} g CO2e"]
    return "; ".join([line, *grams, *routed.notes])


def explained(routed: Routed) -> list[str]:
    """Every arm in a line, then the choices, then the summary."""
    lines = []
    for one in routed.estimates:
        p = "p ?" if math.isnan(one.p) else f"p {one.p:.2f} ({one.p_low:.2f} to {one.p_high:.2f})"
        cost = f"{format_j(one.energy_median_j)} J, nine in ten below {format_j(one.energy_q90_j)}"
        removed = routed.choices[0].removed.get(one.arm)
        lines.append(f"{one.arm}: {p}, {cost}{f'; out: {removed}' if removed else ''}")
    for choice in routed.choices:
        why = f"{choice.why}{f' (fallback: {choice.fallback})' if choice.fallback else ''}"
        lost = f"; {100 * choice.given_up:.0f} points of accuracy given up" if choice.given_up else ""
        lines.append(f"chosen: {choice.arm}, {choice.budget_tokens} tokens of thinking: {why}{lost}")
    return [*lines, summary(routed)]


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
