"""One arm for each query, by what the router's estimators believe: at prices from a joule that is free on."""

from collections.abc import Callable, Sequence

import numpy as np

from bench.routing.estimates import OURS, costs, probabilities
from bench.routing.played import Kind, Played
from bench.routing.split import Prepared, Split, crossed
from engine.predict.outcomes import Table
from router.policy import POINTS, Array, Picks, picked, priced

PRICES = 18
BELOW = 0.005  # what the chosen price may lose against the strongest arm, on the training questions
CROSSED = 2  # parts of the training questions, each judged by what the others taught
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


def chosen_price(data: Prepared, train: Picks, seed: int, at: Sequence[float], which: str = OURS) -> float:
    """Of those `at` hand, where the training questions spend the fewest joules and lose at most half a point
    against their strongest arm; a joule is free where none does. Each part is judged by what the others
    taught the estimator `which`.
    """
    here = data.take(train)
    parts = crossed(here.table.queries, CROSSED)
    p, expected = (
        probabilities(which, here, [seed], parts)[0],
        costs(here, [seed], parts).expected[0],
    )
    best = here.table.correct.mean(0).max()
    found = []
    for price in at:
        arms = priced(p, expected, price)
        if picked(here.table.correct, arms).mean() >= best - BELOW:
            found.append((picked(here.table.energy_j, arms).mean(), price))
    return min(found, default=(0.0, 0.0))[1]


def as_chosen(
    data: Prepared, seeds: Sequence[int], split: Split, p: Array, expected: Array, at: At
) -> Played:
    """One arm for each query, at the price that its training questions chose. p, expected (S, Q, A)."""
    right, spent = np.full((2, len(seeds), 1, len(data.table.questions)), np.nan)
    for s, seed in enumerate(seeds):
        for fold in split(seed):
            price = chosen_price(data, fold.train, seed, at(fold.train))
            arms = priced(p[s, fold.test], expected[s, fold.test], price)
            right[s, 0, fold.test] = picked(data.table.correct[fold.test], arms)
            spent[s, 0, fold.test] = picked(data.table.energy_j[fold.test], arms)
    return Played(CHOSEN, Kind.OURS, ("",), right, spent)
