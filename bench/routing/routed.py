"""One arm for each query, by what the router's estimators believe: at prices from a joule that is free on."""

from collections.abc import Sequence

import numpy as np

from bench.routing.played import Kind, Played
from engine.outcomes import Table
from router.policy import POINTS, Array, picked, priced

PRICES = 18
NAMES = {
    "logistic": "router, logistic",
    "neighbours": "router, nearest neighbours",
    "length": "router, by length alone",
    "category": "router, by category alone",
}


def prices(table: Table) -> tuple[float, ...]:
    """Accuracy points per joule: none, and around the slope from the cheapest arm to the strongest."""
    right, spent = table.correct.mean(0), table.energy_j.mean(0)
    best, least = int(np.argmax(right)), int(np.argmin(spent))
    rise, run = POINTS * (right[best] - right[least]), spent[best] - spent[least]
    slope = rise / run if rise > 0 and run > 0 else POINTS / spent.max()
    return (0.0, *np.geomspace(0.3 * slope, 15 * slope, PRICES - 1))


def routed(which: str, table: Table, p: Array, expected: Array, at: Sequence[float]) -> Played:
    """p, expected (S, Q, A): probabilities and joules of questions they were not fitted to."""
    right, spent = [], []
    for price in at:
        arms = [priced(*one, price) for one in zip(p, expected, strict=True)]
        right.append([picked(table.correct, chosen) for chosen in arms])
        spent.append([picked(table.energy_j, chosen) for chosen in arms])
    kind = Kind.OURS if which == "logistic" else Kind.BASELINE
    shape = (1, 0, 2)  # (K, S, Q) -> (S, K, Q)
    names = tuple(f"{price:.3g} points/J" for price in at)
    return Played(
        NAMES[which], kind, names, np.array(right).transpose(shape), np.array(spent).transpose(shape)
    )
