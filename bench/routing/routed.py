"""One arm for each query, by what the router's estimators believe: at prices from a joule that is free on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.routing.estimates import OURS, costs, probabilities
from bench.routing.played import Kind, Played
from bench.routing.split import Prepared, Split, crossed
from engine.predict.outcomes import Table
from router.policy import POINTS, Array, Picks, picked, priced

PRICES = 18
# What the chosen price may lose against the strongest arm on the training questions: half of the half point
# that is allowed on others, for of prices that lose as much the luckiest is found.
BELOW = 0.0025
CROSSED = 3  # parts of the training questions, each judged by what the others taught
CHOSEN = "router, as training chose it"
At = Callable[[Picks], Sequence[float]]  # prices, by the rows that are learnt from
NAMES = {
    OURS: "router",
    "logistic": "router, logistic alone",
    "neighbours": "router, neighbours alone",
    "length": "router, by length alone",
    "category": "router, by category alone",
}


def prices(table: Table, *, finer: int = 0) -> tuple[float, ...]:
    """Accuracy points per joule: none, and around the slope from the cheapest arm to the strongest.

    `finer`: so many more below the others, down to a fiftieth of the slope: where hardly any accuracy may be
    lost, a price has to be low.
    """
    right, spent = table.correct.mean(0), table.energy_j.mean(0)
    best, least = int(np.argmax(right)), int(np.argmin(spent))
    rise, run = POINTS * (right[best] - right[least]), spent[best] - spent[least]
    slope = rise / run if rise > 0 and run > 0 else POINTS / spent.max()
    lower = np.geomspace(0.02 * slope, 0.3 * slope, finer, endpoint=False)
    return (0.0, *lower, *np.geomspace(0.3 * slope, 15 * slope, PRICES - 1))


def prices_of(table: Table, train: Picks, *, finer: int = 0) -> tuple[float, ...]:
    """By the training questions alone: what others are worth is not known when a price is set."""
    return prices(table.take(train), finer=finer)


def knobs(seeds: Sequence[int], split: Split, at: At) -> tuple[str, ...]:
    """Names of the prices; where every part has its own, of their means."""
    each = np.array([at(fold.train) for seed in seeds for fold in split(seed)])
    return tuple(f"{price:.3g} points/J" for price in each.mean(axis=0))


def routed(
    which: str, table: Table, p: Array, expected: Array, seeds: Sequence[int], split: Split, at: At
) -> Played:
    """p, expected (S, Q, A): probabilities and joules of questions they were not fitted to; nan for those
    that are not tested.
    """
    names = knobs(seeds, split, at)
    right, spent = np.full((2, len(seeds), len(names), len(table.questions)), np.nan)
    for s, seed in enumerate(seeds):
        for fold in split(seed):
            for k, price in enumerate(at(fold.train)):
                arms = priced(p[s, fold.test], expected[s, fold.test], price)
                right[s, k, fold.test] = picked(table.correct[fold.test], arms)
                spent[s, k, fold.test] = picked(table.energy_j[fold.test], arms)
    return Played(NAMES[which], Kind.OURS if which == OURS else Kind.BASELINE, names, right, spent)


@dataclass(frozen=True)
class Learnt:
    """Training questions, each by what others of them taught: p, expected (Q, A)."""

    table: Table
    p: Array
    expected: Array


def learnt(data: Prepared, train: Picks, seed: int, which: str = OURS) -> Learnt:
    """Each of `CROSSED` parts of the training questions by what the others taught the estimator `which`."""
    here = data.take(train)
    parts = crossed(here.table.queries, CROSSED)
    p = probabilities(which, here, [seed], parts)[0]
    return Learnt(here.table, p, costs(here, [seed], parts).expected[0])


def chosen_price(known: Learnt, at: Sequence[float]) -> float:
    """Of those `at` hand, where the training questions spend the fewest joules and lose at most `BELOW`
    against their strongest arm; a joule is free where none does.
    """
    right, energy_j = known.table.correct, known.table.energy_j
    found = []
    for price in at:
        arms = priced(known.p, known.expected, price)
        if picked(right, arms).mean() >= right.mean(0).max() - BELOW:
            found.append((picked(energy_j, arms).mean(), price))
    return min(found, default=(0.0, 0.0))[1]


def as_chosen(
    data: Prepared,
    seeds: Sequence[int],
    split: Split,
    p: Array,
    expected: Array,
    at: At,
    known: Sequence[Sequence[Learnt]],
) -> Played:
    """One arm for each query, at the price that its training questions chose. p, expected (S, Q, A).
    `known`: by seed and fold.
    """
    right, spent = np.full((2, len(seeds), 1, len(data.table.questions)), np.nan)
    for s, seed in enumerate(seeds):
        for fold, taught in zip(split(seed), known[s], strict=True):
            price = chosen_price(taught, at(fold.train))
            arms = priced(p[s, fold.test], expected[s, fold.test], price)
            right[s, 0, fold.test] = picked(data.table.correct[fold.test], arms)
            spent[s, 0, fold.test] = picked(data.table.energy_j[fold.test], arms)
    return Played(CHOSEN, Kind.OURS, ("",), right, spent)
