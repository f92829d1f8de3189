"""Ask cheap arms in turn, and go on only where escalating is worth more than a rate of the stage's own.

A stage's rate is not the price of a joule: a cheap second opinion is worth what it tells, not how often it is
right. So at each price the chain of arms and its stages' rates are sought on the training questions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from bench.routing.escalation import Chain, Worth, learned
from bench.routing.played import Kind, Played
from bench.routing.split import Prepared, folds
from router.policy import POINTS, Array, Picks

CHEAP = 0.5  # of the strongest's joules: an arm that costs more is no second opinion
WORSE = 0.1  # an arm that costs more than another and is so much less accurate is not asked
ASKED = 3  # arms before the strongest, at most
QUANTILES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)  # of what was seen at a stage: its candidate rates
AT_ONCE = (0.5, 0.7, 0.8, 0.9)
BELOW = 0.005  # what the chosen one may lose against the strongest arm
NAME, CHOSEN = "cascade, estimated", "cascade, as training chose it"


def chains(right: Array, energy_j: Array) -> list[Chain]:
    """Cheap arms in order of their joules, then the strongest. right, energy_j (A,): means."""
    last = int(np.argmax(right))
    cheap = [a for a in np.argsort(energy_j) if a != last and energy_j[a] <= CHEAP * energy_j[last]]
    asked = [
        int(a)
        for a in cheap
        if not any(energy_j[b] < energy_j[a] and right[b] > right[a] + WORSE for b in cheap)
    ]
    return [(*some, last) for n in range(ASKED + 1) for some in combinations(asked, n)]


def continued(known: Worth, chain: Chain, rates: Sequence[Array]) -> tuple[Array, Array]:
    """Right and joules, (C, N) each, of all combinations of a rate for each stage, the first stage's slowest.

    Backwards: what going on gives is known before what a stage chooses. `rates`: of asking the strongest at
    once, then one for each arm but the last, behind its answer.
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
class Candidates:
    """A chain with rates (C, stages), and what each combination gave in training: means (C,)."""

    chain: Chain
    rates: Array
    right: Array
    energy_j: Array

    @classmethod
    def of(cls, known: Worth, chain: Chain) -> "Candidates":
        rates: list[Array] = []
        if len(chain) > 1:
            rates.append(np.append(np.quantile(known.at_once[chain[0]], AT_ONCE), np.inf))
        for length in range(1, len(chain)):
            seen = np.quantile(known.further[chain[:length]], QUANTILES)
            rates.append(np.concatenate([[-np.inf], seen, [np.inf]]))
        right, spent = continued(known, chain, rates)
        return cls(chain, np.array(list(product(*rates))), right.mean(1), spent.mean(1))


def cascades(data: Prepared, seeds: Sequence[int], parts: int, at: Sequence[float]) -> tuple[Played, Played]:
    """The cascade at each price, and the one that the training questions chose: the cheapest that loses at
    most half a point against their strongest arm.
    """
    table = data.table
    right, spent = np.empty((2, len(seeds), len(at) + 1, len(table.questions)))
    for s, seed in enumerate(seeds):
        for fold in folds(len(table.questions), seed, parts):
            for k, (made, cost) in enumerate(_played(data, fold.train, fold.test, seed, at)):
                right[s, k, fold.test], spent[s, k, fold.test] = made, cost
    knobs = tuple(f"{price:.3g} points/J" for price in at)
    return (
        Played(NAME, Kind.OURS, knobs, right[:, :-1], spent[:, :-1]),
        Played(CHOSEN, Kind.OURS, ("",), right[:, -1:], spent[:, -1:]),
    )


def _played(
    data: Prepared, train: Picks, test: Picks, seed: int, at: Sequence[float]
) -> Iterator[tuple[Array, Array]]:
    """Right and joules of the test questions, (N,), at each price and then as chosen."""
    means = data.table.correct[train].mean(0), data.table.energy_j[train].mean(0)
    tried = chains(*means)
    known, asked = learned(data, tried, means[0], train, test, seed)
    found = [Candidates.of(known, chain) for chain in tried]
    right = np.concatenate([candidates.right for candidates in found])
    spent = np.concatenate([candidates.energy_j for candidates in found])
    where = [(candidates.chain, rates) for candidates in found for rates in candidates.rates]
    enough = np.where(right >= means[0].max() - BELOW, spent, np.inf)
    for pick in (*(np.argmax(POINTS * right - price * spent) for price in at), np.argmin(enough)):
        chain, rates = where[int(pick)]
        made, cost = continued(asked, chain, [np.array([rate]) for rate in rates])
        yield made[0], cost[0]
