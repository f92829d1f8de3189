"""`python -m router.calibrate OUTCOMES.jsonl --out FILE.npz`: from labelled results to an estimator.

Questions are split in train (half), calibration and test (a quarter each); the report is on the last, which
nothing was fitted to: one JSON object on stdout, and a picture with --plot.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.answerers import Answerers
from engine.cli import Parser, guarded, leave, seed
from engine.errors import TokenjouleError, UsageError
from engine.file_check import refuse_same, writable
from engine.label import collect, outcomes_of, read_questions
from engine.plot import check_plot, save_figure
from engine.predict.chances import coverage, ece, log_loss, reliability
from engine.predict.features import text_rows
from engine.predict.outcomes import Table
from engine.predict.performance import FOLDS
from engine.predict.scorers import SCORERS
from engine.predict.texts import shuffled
from engine.price import price_for_budget
from router.arms import DEFAULT, load_arms
from router.estimator import TEXT, Estimator
from router.policy import Picks, cheapest_certain, dear, picked, priced


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python -m router.calibrate", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument(
        "outcomes", type=Path, metavar="OUTCOMES.jsonl", help="with --run: where they go, resumable"
    )
    cli.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    cli.add_argument("--arms", type=Path, default=DEFAULT, metavar="arms.toml")
    cli.add_argument("--run", type=Path, metavar="QUESTIONS.jsonl", help="have every arm answer these first")
    cli.add_argument("--grade", choices=("exact", "number", "choice", "math"), default="exact")
    cli.add_argument("--kind", choices=tuple(SCORERS), default="both")
    cli.add_argument("--min-accuracy", type=float, metavar="A", help="certify a threshold for min-energy")
    cli.add_argument(
        "--delta", type=float, default=0.1, metavar="D", help="… but for this risk (default 0.1)"
    )
    cli.add_argument("--seed", type=seed, default=0, metavar="S")
    cli.add_argument("--plot", type=Path, metavar="FILE.png")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return guarded(lambda: _run(parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    for name in ("min_accuracy", "delta"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must lie between 0 and 1, not {value}")
    refuse_same({name: getattr(options, name) for name in ("outcomes", "run", "arms", "out", "plot")})
    writable(options.out, options.plot, options.run and options.outcomes)
    if options.plot is not None:
        check_plot(str(options.plot))
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise TokenjouleError("fitting needs scikit-learn: pip install 'tokenjoule[router]'") from error
    arms, source = load_arms(options.arms), TEXT
    ways = {arm.name: (arm.model, arm) for arm in arms.arms}
    with Answerers(arms.models, memory_gb=arms.memory_gb) as answerers:
        if options.run is not None:
            say = partial(print, file=sys.stderr, flush=True)
            asked = read_questions(options.run, least=4 * FOLDS)  # half of them are to fit to
            collect(options.outcomes, answerers, ways, asked, options.grade, digest=arms.digest, say=say)
        table = Table.of(outcomes_of(options.outcomes, ways, arms.digest))
        if table.features is not None:
            source, width = answerers.source(), len(answerers.features("1"))
            if width != table.features.shape[1]:
                raise TokenjouleError(f"{table.features.shape[1]} features; {source} gives {width}")
    train, calibration, test = split(with_features(table), options.seed)
    estimator = Estimator.fit(
        train,
        calibration,
        digest=arms.digest,
        features=source,
        kind=options.kind,
        certify=None if options.min_accuracy is None else (options.min_accuracy, options.delta),
        seed=options.seed,
    )
    estimator.save(options.out)
    report = held_out(estimator, test)
    print(json.dumps(report, indent=1, allow_nan=False))
    if options.plot is not None:
        draw(report, options.plot)
    return 0


def with_features(table: Table) -> Table:
    """Its own, or those of the texts."""
    if table.features is not None:
        return table
    return replace(table, features=text_rows(table.queries, table.categories))


def split(table: Table, seed: int) -> tuple[Table, Table, Table]:
    """(train, calibration, test), by question; questions of one text together."""
    place, count = shuffled(table.queries, seed)
    rows = np.argsort(place, kind="stable")
    half, most = np.searchsorted(place[rows], [count // 2, count * 3 // 4])
    return table.take(rows[:half]), table.take(rows[half:most]), table.take(rows[most:])


def held_out(estimator: Estimator, test: Table) -> dict[str, Any]:
    """How each arm's estimates, and the choices made by them, did on questions that nothing was fitted to."""
    assert test.features is not None
    p, costs = estimator.performance.predict(test.features).p, estimator.energy.predict(test.features)

    def means(arms: Picks) -> list[float | None]:
        """(J, share right) of what is known."""
        found = (picked(values, arms) for values in (test.energy_j, test.correct))
        return [None if np.isnan(values).all() else float(np.nanmean(values)) for values in found]

    by_arm = {}
    for at, arm in enumerate(test.arms):
        mean_j, accuracy = means(np.full(len(p), at))
        if accuracy is None:
            raise TokenjouleError(f"of {len(p)} test questions nobody knows whether {arm} is right")
        by_arm[arm] = {
            "accuracy": accuracy,
            "mean_j": mean_j,
            "ece": ece(p[:, at], test.correct[:, at]),
            "log_loss": log_loss(p[:, at], test.correct[:, at]),
            "q90_coverage": None if mean_j is None else coverage(costs.q90[:, at], test.energy_j[:, at]),
            "reliability": reliability(p[:, at], test.correct[:, at])[:, :2].tolist(),
        }
    each_j = [told["mean_j"] for told in by_arm.values() if told["mean_j"] is not None]
    budgets = np.geomspace(min(each_j) * 1.01, max(each_j), 12).tolist() if each_j else []
    cost = dear(costs.expected)

    def spent_j(price: float) -> float:
        return float(picked(cost, priced(p, cost, price)).mean())

    prices = [min(price_for_budget(spent_j, budget_j), 1e9) for budget_j in budgets]
    found: dict[str, Any] = {"questions": len(test.questions), "fallback": estimator.fallback, "arms": by_arm}
    found |= {"frontier": [means(priced(p, costs.expected, x)) for x in prices], "certificate": None}
    if (one := estimator.certificate) is not None:
        found["certificate"] = {"target": one.target, "delta": one.delta, "threshold": None}
        if not np.isnan(one.threshold):
            rank = estimator.rank(test.features)
            assert rank is not None
            mean_j, accuracy = means(cheapest_certain(p, rank, one.threshold))
            found["certificate"] |= {"threshold": one.threshold, "accuracy": accuracy, "mean_j": mean_j}
    return found


def draw(report: dict[str, Any], path: Path) -> None:
    """Accuracy over joules of arms and of the choices among them; and how far the probabilities hold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, told in report["arms"].items():
        if told["mean_j"] is not None:
            left.plot(told["mean_j"], told["accuracy"], "o", label=arm)
        right.plot(*zip(*told["reliability"], strict=True), ".-", label=arm)
    if report["frontier"]:
        left.plot(*zip(*report["frontier"], strict=True), "k.-", label="routed, by price")
    left.set(xscale="log", xlabel="J per query", ylabel="accuracy")
    right.plot([0, 1], [0, 1], "k:", linewidth=1)
    right.set(xlabel="probability of being right", ylabel="share that is right")
    left.legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
