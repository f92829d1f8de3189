"""Whether the router's estimators keep what they say: calibration, bounds of joules, certified accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.bootstrap import Interval
from bench.routing.estimates import Costs, taught_costs
from bench.routing.split import Prepared, halves
from engine.predict.chances import coverage, ece, interval
from engine.predict.performance import Performance
from engine.predict.texts import firsts
from router.certificate import certified_threshold
from router.policy import Array, Picks, cheapest_certain, picked

RESPLITS = 200
BELOW, DELTA = 0.03, 0.1  # the accuracy asked for, below the strongest arm's; allowed to fail so often


@dataclass(frozen=True)
class ArmCheck:
    """Of one arm's estimates on questions they were not fitted to: one figure for each seed.

    `ece`: over ten bins of equal mass. `covered`: share of questions within the bound for nine of ten.
    `brier`: mean square of what the probability lies off. `auroc`: how often a question that is answered
    right has the higher probability of two, ties counting half; None where the arm is always right, or never.
    """

    arm: str
    ece: tuple[float, ...]
    covered: tuple[float, ...]
    brier: tuple[float, ...]
    auroc: tuple[float, ...] | None


@dataclass(frozen=True)
class Certified:
    """Thresholds certified on random halves of questions and tried on the other halves.

    All resplits are of the same questions, by one estimator a seed. The interval takes them as independent,
    which they are not: it is narrower than what other questions would bear out.

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


@dataclass(frozen=True)
class Promised:
    """A certified threshold on the test questions. `above`: accuracy beyond the target. `saved`: share of the
    strongest arm's joules.
    """

    threshold: float
    above: float
    saved: float


def arm_checks(data: Prepared, p: Array, costs: Costs) -> list[ArmCheck]:
    """p (S, Q, A)."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    def check(a: int, arm: str) -> ArmCheck:
        right, believed = data.table.correct[:, a], p[:, :, a]
        ranked = 0 < right.mean() < 1
        return ArmCheck(
            arm,
            tuple(ece(each, right) for each in believed),
            tuple(coverage(bound, data.table.energy_j[:, a]) for bound in costs.q90[:, :, a]),
            tuple(float(brier_score_loss(right, each, pos_label=1)) for each in believed),
            tuple(float(roc_auc_score(right, each)) for each in believed) if ranked else None,
        )

    return [check(a, arm) for a, arm in enumerate(data.table.arms)]


def certified(data: Prepared, seeds: Sequence[int], resplits: int = RESPLITS) -> Certified:
    """Estimators of one half of all questions, for each seed; the other half is split again and again."""
    given, violations, saved = 0, 0, []
    texts = data.table.queries
    for place, seed in enumerate(seeds):
        taught, held = halves(np.arange(len(texts)), texts, seed)
        made = _Promise.of(data, taught, seed)
        for again in range(place, resplits, len(seeds)):
            one, other = halves(held, texts, (seed, again))
            threshold = made.threshold(one)
            if threshold is None:
                continue
            given += 1
            above, spared = made.kept(other, threshold)
            violations += int(above < 0)
            saved.append(spared)
    share = Interval(None) if not given else Interval(violations / given, *interval(violations, given))
    return Certified(
        resplits, BELOW, DELTA, given / resplits, share, float(np.mean(saved)) if saved else None
    )


def promised(data: Prepared, fit: Picks, test: Picks, seeds: Sequence[int]) -> list[Promised]:
    """Thresholds certified on one half of the `fit` questions, by estimators of the other half, kept on
    `test` once for each seed in which there is one.
    """
    found = []
    for seed in seeds:
        taught, held = halves(fit, data.table.queries, seed)
        made = _Promise.of(data, taught, seed)
        if (threshold := made.threshold(held)) is not None:
            found.append(Promised(threshold, *made.kept(test, threshold)))
    return found


@dataclass(frozen=True)
class _Promise:
    """Of all questions, by estimators of some: p, cost (Q, A); the strongest arm there and what is promised.

    Joules are those of a rule that has read its questions, beside the strongest arm's own.
    """

    data: Prepared
    p: Array
    cost: Array
    best: int
    target: float

    @classmethod
    def of(cls, data: Prepared, taught: Picks, seed: int) -> "_Promise":
        right, texts = data.table.correct[taught], data.table.queries[taught]
        model = Performance.fit(data.features[taught], right, seed=seed, texts=texts)
        cost = taught_costs(data.spared, taught, seed).predict(data.features).expected
        best = int(np.argmax(right.mean(0)))
        return cls(data, model.predict(data.features).p, cost, best, float(right.mean(0)[best]) - BELOW)

    def threshold(self, rows: Picks) -> float | None:
        """Certified on these questions, of equal texts on one: a promise counts draws that are independent.
        None where none is.
        """
        rows = rows[firsts(self.data.table.queries[rows])]
        right = self.data.table.correct[rows]
        return certified_threshold(self.p[rows], self.cost[rows], right, target=self.target, delta=DELTA)

    def kept(self, rows: Picks, threshold: float) -> tuple[float, float]:
        """(accuracy above the target, share of the strongest arm's joules that is saved) on these."""
        arms = cheapest_certain(self.p[rows], self.cost[rows], threshold)
        spent = picked(self.data.spared.table.energy_j[rows], arms) + self.data.read_j[rows]
        above = picked(self.data.table.correct[rows], arms).mean() - self.target
        return float(above), float(1 - spent.mean() / self.data.table.energy_j[rows, self.best].mean())
