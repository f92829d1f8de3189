"""Ask cheap arms in turn, and the strongest only where the router's estimators say that it pays.

Behind the last cheap arm only the strongest is left, and it is asked where that is worth more than a joule's
price. What an earlier arm's successor is worth lies in what it tells, not in how often it is right: from what
worth on it is asked is sought on the training questions, as is which arms are asked, at each price. Where
every stage had a rate to be sought, chance was fitted: 94.2 % right at 124 J, and 94.7 % at 119 J as it is
now (GSM8K, one seed; the plain agreement of two: 94.6 % at 119 J).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from bench.calibration.hull import hull
from bench.routing.escalation import Chain, Worth, learned
from bench.routing.played import Kind, Played
from bench.routing.routed import At, knobs
from bench.routing.split import Prepared, Split
from router.policy import POINTS, Array, Picks

ASKED = 3  # arms before the strongest, at most
QUANTILES = (0.2, 0.4, 0.6, 0.8)  # of what was seen behind an arm: its candidate rates
AT_ONCE = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of what was seen before any arm: of asking the strongest at once
BELOW = 0.005  # what the chosen one may lose against the strongest arm
NAME, CHOSEN = "cascade, estimated", "cascade, as training chose it"


def chains(right: Array, energy_j: Array) -> list[Chain]:
    """Arms in order of their joules, then the strongest. right, energy_j (A,): means.

    Asked are arms on the hull, which some price prefers to all others, three at most, from the cheapest to
    the best; and as a second opinion the cheapest of the others that takes less than the strongest.
    """
    last = int(np.argmax(right))
    edge = [arm for arm in hull(energy_j, right).points if arm != last]
    if len(edge) > ASKED:
        edge = [edge[round(at)] for at in np.linspace(0, len(edge) - 1, ASKED)]
    beside = [
        arm for arm in np.argsort(energy_j) if arm not in (*edge, last) and energy_j[arm] < energy_j[last]
    ]
    asked = sorted((int(arm) for arm in (*edge, *beside[:1])), key=lambda arm: energy_j[arm])
    return [(*some, last) for n in range(ASKED + 1) for some in combinations(asked, n)]


def continued(known: Worth, chain: Chain, rates: Sequence[Array]) -> tuple[Array, Array]:
    """Right and joules, (C, N) each, of all combinations of a rate for each stage, the first stage's slowest.

    A stage goes on where escalating is worth more than its rate. `rates`: of asking the strongest at once,
    then behind each arm but the last. Backwards: what going on gives is known before what a stage chooses.
    """
    last = chain[-1]
    right, spent = known.right[chain][None], known.energy_j[:, last][None]
    for length in range(len(chain) - 1, 0, -1):
        asked = chain[:length]
        on = known.further[asked] > rates[length][:, None, None]
        right = _flat(np.where(on, right, known.right[asked]))
        spent = _flat(np.where(on, spent, 0.0) + known.energy_j[:, asked[-1]])
    if len(chain) > 1:
        at_once = known.at_once[chain[0]] > rates[0][:, None, None]
        right = _flat(np.where(at_once, known.right[(last,)], right))
        spent = _flat(np.where(at_once, known.energy_j[:, last], spent))
    return right, spent


def _flat(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1])


@dataclass(frozen=True)
class Choice:
    """A chain and its stages' rates, and what they gave in training."""

    chain: Chain
    rates: tuple[float, ...]
    right: float
    energy_j: float


def best(known: Worth, tried: Sequence[Chain], price: float) -> Choice:
    """Of all chains and candidate rates: the most accuracy points less the price of their joules."""
    found = [_best(known, chain, price) for chain in tried]
    return max(found, key=lambda choice: POINTS * choice.right - price * choice.energy_j)


def _best(known: Worth, chain: Chain, price: float) -> Choice:
    rates: list[Array] = []
    if len(chain) > 1:
        rates.append(np.append(np.quantile(known.at_once[chain[0]], AT_ONCE), np.inf))
    for length in range(1, len(chain) - 1):
        seen = np.quantile(known.further[chain[:length]], QUANTILES)
        rates.append(np.concatenate([[-np.inf], seen, [np.inf]]))
    if len(chain) > 1:
        rates.append(np.array([price]))
    right, spent = (values.mean(1) for values in continued(known, chain, rates))
    pick = int(np.argmax(POINTS * right - price * spent))
    return Choice(chain, list(product(*rates))[pick], float(right[pick]), float(spent[pick]))


def cascades(data: Prepared, seeds: Sequence[int], split: Split, at: At) -> tuple[Played, Played]:
    """The cascade at each price, and the one that the training questions chose: the cheapest that loses at
    most half a point against their strongest arm.
    """
    names = knobs(seeds, split, at)
    right, spent = np.full((2, len(seeds), len(names) + 1, len(data.table.questions)), np.nan)
    for s, seed in enumerate(seeds):
        for fold in split(seed):
            played = _played(data, fold.train, fold.test, seed, at(fold.train))
            for k, (made, cost) in enumerate(played):
                right[s, k, fold.test], spent[s, k, fold.test] = made, cost
    return (
        Played(NAME, Kind.OURS, names, right[:, :-1], spent[:, :-1]),
        Played(CHOSEN, Kind.OURS, ("",), right[:, -1:], spent[:, -1:]),
    )


def _played(
    data: Prepared, train: Picks, test: Picks, seed: int, at: Sequence[float]
) -> Iterator[tuple[Array, Array]]:
    """Right and joules of the test questions, (N,), at each price and then as chosen."""
    means = data.table.correct[train].mean(0), data.table.energy_j[train].mean(0)
    tried = chains(*means)
    known, asked = learned(data, tried, means[0], train, test, seed)
    choices = [best(known, tried, price) for price in at]
    enough = [choice for choice in choices if choice.right >= means[0].max() - BELOW]
    cheapest = min(enough, key=lambda choice: choice.energy_j, default=choices[0])
    for choice in (*choices, cheapest):
        made, cost = continued(asked, choice.chain, [np.array([rate]) for rate in choice.rates])
        yield made[0], cost[0]
