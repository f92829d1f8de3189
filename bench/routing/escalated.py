"""The router's own way with a query: one arm, and further ones where what the first answered makes it pay.

At each price, the arm of the most accuracy less its joules; then, as `router.policy.escalate` does for one
query, arm after arm as long as one is worth its joules by what the answers so far have told of it
(`engine.predict.evidence`). The answer that is likeliest by then stands.
"""

from collections.abc import Sequence

import numpy as np

from bench.routing.played import Kind, Played
from bench.routing.routed import At, Learnt, knobs
from bench.routing.split import Prepared, Split
from engine.predict.evidence import Evidence
from engine.predict.outcomes import Table
from router.policy import LEAST_GAIN, POINTS, Array, priced

NAME = "router, escalating"


def escalated(
    data: Prepared,
    seeds: Sequence[int],
    split: Split,
    p: Array,
    expected: Array,
    at: At,
    known: Sequence[Sequence[Learnt]],
) -> Played:
    """p, expected (S, Q, A): of questions they were not fitted to; nan for those that are not tested.
    `known`: the training questions, by seed and fold.
    """
    names = knobs(seeds, split, at)
    right, spent = np.full((2, len(seeds), len(names), len(data.table.questions)), np.nan)
    for s, seed in enumerate(seeds):
        for fold, taught in zip(split(seed), known[s], strict=True):
            told, test = Evidence.fit(taught.table, taught.p), data.table.take(fold.test)
            for k, price in enumerate(at(fold.train)):
                asked = played(told, test, p[s, fold.test], expected[s, fold.test], price)
                right[s, k, fold.test], spent[s, k, fold.test] = asked
    return Played(NAME, Kind.OURS, names, right, spent)


def played(
    told: Evidence | None, table: Table, p: Array, expected: Array, price: float
) -> tuple[Array, Array]:
    """Right and joules, (N,) each. p, expected (N, A); `price` in points per joule."""
    rows = np.arange(len(p))
    believed, tried = p.copy(), np.zeros(p.shape, dtype=bool)
    spent, arm, going = np.zeros(len(p)), priced(p, expected, price), rows
    while len(going):
        asked = arm[going]
        tried[going, asked] = True
        spent[going] += table.energy_j[going, asked]
        for one in np.unique(asked) if told else ():
            here = going[asked == one]
            believed[here] = told(one, believed[here], table.confidence[here, one])  # type: ignore[misc]
        stands = np.where(tried, believed, -1.0).argmax(axis=1)
        gain = believed - believed[rows, stands][:, None]
        worth = np.where(tried | (gain <= LEAST_GAIN), -np.inf, POINTS * gain - price * expected)
        arm = worth.argmax(axis=1)
        going = going[worth[going, arm[going]] > 0]
    return table.correct[rows, stands], spent
