"""What asking the strongest arm is worth at each stage of a cascade, told by the router's estimators.

After some arms have answered, two probabilities are at hand from the text, the answers' agreement and their
lengths: that the answer which stands is right, and that the strongest arm would be. Their difference over the
joules that the strongest is expected to take is what escalating is worth, in accuracy points per joule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.routing.estimates import taught_costs, without_words
from bench.routing.split import Prepared, folds
from bench.routing.states import state
from engine.predict.performance import Performance
from router.policy import POINTS, Array, Picks

Chain = tuple[int, ...]  # arms in the order they are asked, the strongest last
CROSSED = 2  # parts of the training questions, each judged by what the others taught; 4 did no better


@dataclass(frozen=True)
class Worth:
    """Of N questions: `at_once` (N,), by the arm that would be asked first, what the strongest is worth in
    its place; `further` (N,), by the arms that have answered, what it is worth then; in points per joule.

    `right` (N,), by the arms that have answered: whether the answer that stands is. `energy_j` (N, A).
    """

    at_once: dict[int, Array]
    further: dict[Chain, Array]
    right: dict[Chain, Array]
    energy_j: Array


def learned(
    data: Prepared, chains: Sequence[Chain], trust: Array, train: Picks, test: Picks, seed: int
) -> tuple[Worth, Worth]:
    """Of the training questions, each part by what the others taught, and of the test questions, by all.

    The first is in the order of `train`. `trust` (A,): whose answer stands where votes tie.
    """
    table, query, last = data.table, without_words(data), chains[0][-1]
    strong = table.correct[:, last]
    split = folds(table.queries[train], seed, CROSSED)
    expected = taught_costs(data, train, seed).predict(data.features).expected[:, last]

    def worth(features: Array, right: Array) -> tuple[Array, Array]:
        crossed, new = np.empty(len(train)), np.zeros(len(test))
        for part in split:
            rows = train[part.train]
            gain = _gain(features[rows], right[rows], strong[rows], table.queries[rows], seed)
            crossed[part.test] = gain(features[train[part.test]])
            new += gain(features[test]) / len(split)
        return POINTS * crossed / expected[train], POINTS * new / expected[test]

    firsts = {chain[0] for chain in chains if len(chain) > 1}
    at_once = {first: worth(query, table.correct[:, first]) for first in firsts}
    further, right = {}, {}
    for chain in chains:
        for length in range(1, len(chain) + 1):
            asked = chain[:length]
            if asked not in right:
                here = state(table, asked, query, trust)
                right[asked] = here.right
                if length < len(chain):
                    further[asked] = worth(here.features, here.right)
    return tuple(
        Worth(
            {first: both[part] for first, both in at_once.items()},
            {asked: both[part] for asked, both in further.items()},
            {asked: values[rows] for asked, values in right.items()},
            table.energy_j[rows],
        )
        for part, rows in enumerate((train, test))
    )  # type: ignore[return-value]


def _gain(
    features: Array, right: Array, strong: Array, texts: NDArray[Any], seed: int
) -> Callable[[Array], Array]:
    """How much likelier the strongest arm is to be right than the answer that stands."""
    made = Performance.fit(
        features, np.stack([right, strong], axis=1), kind="logistic", seed=seed, texts=texts
    )

    def gain(asked: Array) -> Array:
        p = made.predict(asked).p
        return p[:, 1] - p[:, 0]

    return gain
