"""Whether the router's estimators keep what they say: calibration, bounds of joules, certified accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.bootstrap import Interval
from bench.routing.estimates import Costs, taught_costs
from bench.routing.split import Prepared, halves
from engine.chances import coverage, ece, interval
from router.certificate import certified_threshold
from router.performance import Performance
from router.policy import Array, cheapest_certain, picked

RESPLITS = 200
BELOW, DELTA = (
    0.03,
    0.1,
)  # the accuracy that is asked for, below the strongest arm's; allowed to fail so often


@dataclass(frozen=True)
class ArmCheck:
    """Of one arm's estimates on questions they were not fitted to: one figure for each seed.

    `ece`: over ten bins of equal mass. `covered`: share of questions within the bound for nine of ten.
    """

    arm: str
    ece: tuple[float, ...]
    covered: tuple[float, ...]


@dataclass(frozen=True)
class Certified:
    """Thresholds certified on random halves of questions and tried on the other halves.

    `given`: share of resplits in which one was certified. `violated`: share of those whose accuracy on the
    other half lay below the target, with its exact interval; chance of that half counts as violation too.
    `saved`: share of the strongest arm's joules, on average.
    """

    resplits: int
    target_below: float
    delta: float
    given: float
    violated: Interval
    saved: float | None


def arm_checks(data: Prepared, p: Array, costs: Costs) -> list[ArmCheck]:
    """p (S, Q, A)."""
    table = data.table
    seeds = range(len(p))
    return [
        ArmCheck(
            arm,
            tuple(ece(p[s, :, a], table.correct[:, a]) for s in seeds),
            tuple(coverage(costs.q90[s, :, a], table.energy_j[:, a]) for s in seeds),
        )
        for a, arm in enumerate(table.arms)
    ]


def certified(data: Prepared, seeds: Sequence[int], resplits: int = RESPLITS) -> Certified:
    """Estimators of one half of all questions, for each seed; the other half is split again and again."""
    table, given, violations, saved = data.table, 0, 0, []
    for place, seed in enumerate(seeds):
        taught, held = halves(np.arange(len(table.questions)), seed)
        model = Performance.fit(data.features[taught], table.correct[taught], seed=seed)
        p = model.predict(data.features[held]).p
        cost = taught_costs(data, taught, seed).predict(data.features[held]).expected
        right, spent = table.correct[held], table.energy_j[held]
        best = int(np.argmax(table.correct[taught].mean(0)))
        target = float(table.correct[taught].mean(0)[best]) - BELOW
        for again in range(place, resplits, len(seeds)):
            one, other = halves(np.arange(len(held)), (seed, again))
            threshold = certified_threshold(p[one], cost[one], right[one], target=target, delta=DELTA)
            if threshold is None:
                continue
            given += 1
            arms = cheapest_certain(p[other], cost[other], threshold)
            violations += int(picked(right[other], arms).mean() < target)
            saved.append(1 - picked(spent[other], arms).mean() / spent[other, best].mean())
    share = Interval(None) if not given else Interval(violations / given, *interval(violations, given))
    return Certified(
        resplits, BELOW, DELTA, given / resplits, share, float(np.mean(saved)) if saved else None
    )
