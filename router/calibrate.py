"""`python -m router.calibrate OUTCOMES.jsonl --out FILE.npz`: from labelled results to an estimator.

Questions are split in train (half), calibration and test (a quarter each); the report is on the last, which
nothing was fitted to: one JSON object on stdout, and a picture with --plot.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError
from router import features
from router.arms import DEFAULT, load_arms
from router.estimator import TEXT, Estimator
from router.label import outcomes, read_questions
from router.outcomes import Table, read_outcomes, write_outcomes
from router.performance import log_loss
from router.policy import cheapest_certain, picked, price_for_budget, priced
from router.router import Router
from router.scores import coverage, ece
from router.text_features import text_features


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python -m router.calibrate", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("outcomes", type=Path, metavar="OUTCOMES.jsonl", help="with --run: where they go")
    cli.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    cli.add_argument("--arms", type=Path, default=DEFAULT, metavar="arms.toml")
    cli.add_argument("--run", type=Path, metavar="QUESTIONS.jsonl", help="have every arm answer these first")
    cli.add_argument("--grade", choices=("exact", "number", "choice", "math"), default="exact")
    cli.add_argument("--kind", choices=("logistic", "knn"), default="logistic")
    cli.add_argument("--min-accuracy", type=float, metavar="A", help="certify a threshold for min-energy")
    cli.add_argument(
        "--delta", type=float, default=0.1, metavar="D", help="… but for this risk (default 0.1)"
    )
    cli.add_argument("--seed", type=int, default=0, metavar="S")
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
    arms = load_arms(options.arms)
    with Router(arms) as router:
        if options.run is not None:
            write_outcomes(options.outcomes, outcomes(router, read_questions(options.run), options.grade))
        table = Table.of(read_outcomes(options.outcomes))
        if set(table.arms) != {arm.name for arm in arms.arms}:
            raise UsageError(
                f"{options.outcomes} is of the arms {', '.join(table.arms)}; not those of {options.arms}"
            )
        source = TEXT
        if table.features is not None:
            source, width = features.source(router.reader()), len(router.read("1")[0])
            if width != table.features.shape[1]:
                raise TokenjouleError(f"{table.features.shape[1]} features; {source} gives {width}")
    train, calibration, test = split(with_features(table), options.seed)
    certify = None if options.min_accuracy is None else (options.min_accuracy, options.delta)
    found = Estimator.fit(
        train,
        calibration,
        digest=arms.digest,
        features=source,
        kind=options.kind,
        certify=certify,
        seed=options.seed,
    )
    found.save(options.out)
    report = held_out(found, test)
    print(json.dumps(report, indent=1))
    if options.plot is not None:
        draw(report, options.plot)
    return 0


def with_features(table: Table) -> Table:
    """Its own, or those of the texts."""
    if table.features is not None:
        return table
    rows = [text_features(q, c) for q, c in zip(table.queries, table.categories, strict=True)]
    return replace(table, features=np.array(rows))


def split(table: Table, seed: int) -> tuple[Table, Table, Table]:
    """(train, calibration, test), by question."""
    order = np.random.default_rng(seed).permutation(len(table.questions))
    half, three = len(order) // 2, len(order) * 3 // 4
    return table.take(order[:half]), table.take(order[half:three]), table.take(order[three:])


def held_out(estimator: Estimator, test: Table) -> dict[str, Any]:
    """How each arm's estimates, and the choices made by them, did on questions that nothing was fitted to."""
    assert test.features is not None
    p, costs = estimator.performance.predict(test.features).p, estimator.energy.predict(test.features)
    by_arm = {
        arm: {
            "accuracy": float(np.nanmean(test.correct[:, at])),
            "mean_j": float(np.nanmean(test.energy_j[:, at])),
            "ece": ece(p[:, at], test.correct[:, at]),
            "log_loss": log_loss(p[:, at], test.correct[:, at]),
            "q90_coverage": coverage(costs.q90[:, at], test.energy_j[:, at]),
            "reliability": _reliability(p[:, at], test.correct[:, at]),
        }
        for at, arm in enumerate(test.arms)
    }
    mean_j = np.nanmean(test.energy_j, axis=0)
    frontier = []
    for target_j in np.geomspace(mean_j.min() * 1.01, mean_j.max(), 12):
        arms = priced(p, costs.expected, min(price_for_budget(p, costs.expected, target_j), 1e9))
        frontier.append(
            [float(np.nanmean(picked(test.energy_j, arms))), float(np.nanmean(picked(test.correct, arms)))]
        )
    found: dict[str, Any] = {"questions": len(test.questions), "fallback": estimator.fallback}
    found |= {"arms": by_arm, "frontier": frontier, "certificate": None}
    if estimator.certificate is not None:
        one = estimator.certificate
        found["certificate"] = {"target": one.target, "delta": one.delta, "threshold": None}
        if not np.isnan(one.threshold):
            arms = cheapest_certain(p, costs.expected, one.threshold)
            found["certificate"] |= {
                "threshold": one.threshold,
                "accuracy": float(np.nanmean(picked(test.correct, arms))),
                "mean_j": float(np.nanmean(picked(test.energy_j, arms))),
            }
    return found


def _reliability(p: Any, correct: Any) -> list[list[float]]:
    """[mean p, share right] in ten bins of equal mass."""
    order = np.argsort(p)
    return [
        [float(p[part].mean()), float(np.nanmean(correct[part]))]
        for part in np.array_split(order, 10)
        if len(part)
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """Accuracy over joules of arms and of the choices among them; and how far the probabilities hold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, told in report["arms"].items():
        left.plot(told["mean_j"], told["accuracy"], "o", label=arm)
        right.plot(*zip(*told["reliability"], strict=True), ".-", label=arm)
    left.plot(*zip(*report["frontier"], strict=True), "k.-", label="routed, by price")
    left.set(xscale="log", xlabel="J per query", ylabel="accuracy")
    right.plot([0, 1], [0, 1], "k:", linewidth=1)
    right.set(xlabel="probability of being right", ylabel="share that is right")
    left.legend(fontsize=7)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
