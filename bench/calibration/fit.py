"""From a checkpoint log to the model's stopping rule, and what is to be said of each category."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from bench.calibration import confidence
from bench.calibration.bootstrap import best_budget, budget_intervals, cheapest_within, paired_interval
from bench.calibration.grid import Grid
from bench.calibration.hull import Hull, hull
from bench.calibration.induction import candidates, choose_axes, fit_category
from bench.calibration.log import Trace
from bench.calibration.price import default_price, held_out
from bench.calibration.replay import Outcome
from bench.calibration.saturating import Saturating, fit_saturating
from bench.calibration.tasks import refuse_test
from engine.errors import TokenjouleError
from engine.stop.rule import POINTS, POOLED, Axes, StoppingRule

CHOOSING_RUNS = 1000  # tell which signals matter; more of them take long
LEAST_RUNS = 20  # of a category: below, five folds hold next to nothing


@dataclass(frozen=True)
class Finding:
    """One category at one price. Budgets are numbers of steps; `best_j` is E*, with its interval.

    `regret`: what choosing that budget on other questions loses on average, in accuracy, with its interval.
    `safe_budget`: the price-free choice, None where no budget is certain enough. `held_out`: the rule's
    outcome on questions it was not fitted to; `saved` joules of it against full thinking, `lost` accuracy
    with its interval. `g_error`: how far P(right if stopped now), from a probe's confidence, is off on
    held-out questions.
    """

    category: str
    grid: Grid
    hull: Hull
    axes: Axes
    best_budget: int
    best_j: float
    best_interval_j: tuple[float, float]
    regret: float
    regret_interval: tuple[float, float]
    safe_budget: int | None
    saturating: Saturating | None
    held_out: Outcome
    saved: float
    lost: float
    lost_interval: tuple[float, float]
    g_error: float | None


def by_category(traces: Sequence[Trace]) -> dict[str, list[Trace]]:
    """Runs by category, in the order in which the categories first come."""
    parts: dict[str, list[Trace]] = {}
    for trace in traces:
        parts.setdefault(trace.end.category, []).append(trace)
    return parts


def fit_rule(
    traces: Sequence[Trace], *, probes: bool = False, say: Callable[[str], None] = lambda line: None
) -> StoppingRule:
    """The rule of one model's runs, a rule of all categories together with it.

    Raises `TokenjouleError` for runs of several models, and for too few of a category; `UsageError` for runs
    on the test split.
    """
    if not traces:
        raise TokenjouleError("there are no runs to fit a stopping rule to")
    refuse_test({trace.end.split for trace in traces})
    origins = {(t.end.model, t.end.quantization, t.end.energy_source) for t in traces}
    if len(origins) > 1:
        raise TokenjouleError(f"the runs are of several models or energy sources: {sorted(origins)}")
    [(model, quantization, source)] = origins
    parts = by_category(traces)
    few = [f"{name} ({len(part)})" for name, part in parts.items() if len(part) < LEAST_RUNS]
    if few:
        raise TokenjouleError(f"a category needs {LEAST_RUNS} runs or more: {', '.join(few)}")
    axes: dict[str, Axes] = {}
    for name, part in (*parts.items(), (POOLED, list(traces))):
        say(f"{name}: choosing signals on {len(part)} runs")
        some = part[:: -(-len(part) // CHOOSING_RUNS)]
        axes[name] = choose_axes(some, candidates(some, probes=probes))
    categories = {name: fit_category(part, axes[name]) for name, part in parts.items()}
    say("choosing the price")
    return StoppingRule(
        model=model,
        quantization=quantization,
        energy_source=source,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=len(traces),
        price=default_price(traces, {name: axes[name] for name in parts}),
        categories={**categories, POOLED: fit_category(traces, axes[POOLED])},
    )


def find(category: str, traces: Sequence[Trace], axes: Axes, price: float) -> Finding:
    """What is to be said of a category's runs at `price` points per joule."""
    grid = Grid.of(traces)
    per_j = price / POINTS
    mean_j, accuracy = grid.energy_j.mean(axis=0), grid.correct.mean(axis=0)
    best = best_budget(grid, per_j)
    interval_j, regret, regret_interval = budget_intervals(grid, per_j)
    [rule] = held_out(traces, {category: axes}, [price])
    lost = grid.correct[:, -1] - rule.correct
    try:
        saturating = fit_saturating(mean_j, accuracy)
    except ValueError:  # fewer than three budgets: there is nothing to saturate
        saturating = None
    return Finding(
        category=category,
        grid=grid,
        hull=hull(mean_j, accuracy),
        axes=axes,
        best_budget=best,
        best_j=float(mean_j[best]),
        best_interval_j=interval_j,
        regret=regret,
        regret_interval=regret_interval,
        safe_budget=cheapest_within(grid),
        saturating=saturating,
        held_out=rule,
        saved=float(1 - rule.energy_j.mean() / mean_j[-1]),
        lost=float(np.mean(lost)),
        lost_interval=paired_interval(lost, grid.clusters),
        g_error=_g_error(traces),
    )


def _g_error(traces: Sequence[Trace]) -> float | None:
    """None where nothing was probed."""
    read = [(row, e) for row, t in enumerate(traces) for e in t.checkpoints if e.confidence is not None]
    if not read:
        return None
    values = np.array([entry.confidence for _, entry in read], float)
    correct = np.array([entry.correct for _, entry in read], float)
    fitted = confidence.cross_fitted(values, correct, np.array([row for row, _ in read]))
    return confidence.calibration_error(fitted, correct)


def accuracy_by_joules(findings: Sequence[Finding]) -> dict[str, object]:
    """A(E | category) for the curve file: the corners of each category's hull."""
    return {
        "version": 1,
        "categories": {
            found.category: {
                "energy_j": found.hull.energy_j.tolist(),
                "accuracy": found.hull.accuracy.tolist(),
                "runs": len(found.grid.clusters),
            }
            for found in findings
        },
    }
