"""What the router's estimators say of questions that they were not fitted to, seed by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.routing.baselines import CategoryMean
from bench.routing.split import Fold, Prepared, Split, halves
from engine.predict.features import BUCKETS, PLAIN
from engine.predict.performance import Performance
from engine.predict.request_costs import CostEstimator
from router.policy import Array, Picks

OURS = "both"
PROBABILITIES = (OURS, "logistic", "neighbours", "length", "category")
# Of those that learn from features, what `Performance` calls them.
KINDS = {OURS: "both", "logistic": "logistic", "neighbours": "knn"}
Teach = Callable[[Prepared, Picks, int], Callable[[Picks], Array]]


@dataclass(frozen=True)
class Costs:
    """Joules of each arm, (S, Q, A): expected, and what nine cases of ten are to stay within."""

    expected: Array
    q90: Array


def probabilities(which: str, data: Prepared, seeds: Sequence[int], split: Split) -> Array:
    """(S, Q, A): that each arm is right, by one of `PROBABILITIES`; nan where a question is not tested."""
    return np.stack([_tested(_TEACHERS[which], data, seed, split(seed)) for seed in seeds])


def costs(data: Prepared, seeds: Sequence[int], split: Split) -> Costs:
    """Fitted on one half of what a fold may learn from, its spread taken from the other."""
    shape = (len(seeds), *data.table.energy_j.shape)
    expected, q90 = np.full(shape, np.nan), np.full(shape, np.nan)
    for s, seed in enumerate(seeds):
        for fold in split(seed):
            made = taught_costs(data, fold.train, seed).predict(data.features[fold.test])
            expected[s, fold.test], q90[s, fold.test] = made.expected, made.q90
    return Costs(expected, q90)


def taught_costs(data: Prepared, rows: Picks, seed: int) -> CostEstimator:
    """The Energy Estimator of some questions."""
    table = data.table
    first, second = halves(rows, table.queries, seed)
    made = CostEstimator.fit(
        data.features[first], table.prompt_tokens[first], table.new_tokens[first], table.energy_j[first]
    )
    return made.calibrated(data.features[second], table.energy_j[second])


def _tested(teach: Teach, data: Prepared, seed: int, split: Sequence[Fold]) -> Array:
    found = np.full(data.table.correct.shape, np.nan)
    for fold in split:
        found[fold.test] = teach(data, fold.train, seed)(fold.test)
    return found


def _by(features: Callable[[Prepared], Array], kind: str) -> Teach:
    def teach(data: Prepared, rows: Picks, seed: int) -> Callable[[Picks], Array]:
        columns, table = features(data), data.table
        texts = table.queries[rows]
        made = Performance.fit(columns[rows], table.correct[rows], kind=kind, seed=seed, texts=texts)
        return lambda asked: made.predict(columns[asked]).p

    return teach


def _by_category(data: Prepared, rows: Picks, seed: int) -> Callable[[Picks], Array]:
    names = data.table.categories
    made = CategoryMean.fit([names[row] for row in rows], data.table.correct[rows])
    return lambda asked: made.predict([names[row] for row in asked])


def _length(data: Prepared) -> Array:
    """(Q, 1): the prompt's tokens, by the first arm's count."""
    return np.log1p(data.table.prompt_tokens[:, :1])


_TEACHERS: dict[str, Teach] = {
    **{which: _by(lambda data: data.features, kind) for which, kind in KINDS.items()},
    "length": _by(_length, "logistic"),
    "category": _by_category,
}


def without_words(data: Prepared) -> Array:
    """(Q, F): where features are the text's, its sizes and category alone, without columns that never vary.

    A stage of a cascade learns from half of the questions: 64 hashed words are more than they can teach.
    """
    if not data.text_only:
        return data.features
    kept = np.delete(data.features, np.s_[PLAIN : PLAIN + BUCKETS], axis=1)
    return kept[:, kept.std(0) > 0]
