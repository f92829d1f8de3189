"""What the router does with questions unlike any that it learned from: each kind of task is left out once.

Leave-one-dataset-out, where one file holds several kinds. A category goes with those that put the same task
another way (`chain` and `chain-choice`): what one of them teaches is what the other one asks. The router
answers as `router.router` does: at the price that its training questions chose, and by the best fixed arm
where its guard finds the question out of their reach.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.experiments.bootstrap import Interval, between
from bench.routing.estimates import KINDS, taught_costs
from bench.routing.judge import RESAMPLES, resampled
from bench.routing.routed import At, chosen_price, learnt
from bench.routing.split import LEAST, Prepared
from bench.routing.untrained import strongest
from bench.testbed.question import CHOICE
from engine.predict.chances import ece
from engine.predict.performance import Performance
from router.policy import POINTS, Array, Picks, picked, priced

Say = Callable[[str], None]


@dataclass(frozen=True)
class Unseen:
    """Of `questions` in a category, by an estimator that was taught others; None: of all such questions.

    `outside`: share that the guard sent to the best fixed arm of what was learnt from. `lost`: accuracy
    points against that arm, `saved`: share of its joules, reading charged. `ece`, over ten bins of equal
    mass, and `excess`, points believed beyond those right: of the chosen arm's probability where the guard
    let the question through; None where it let none.
    """

    which: str
    category: str | None
    questions: int
    outside: float
    accuracy: Interval
    energy_j: Interval
    lost: Interval
    saved: Interval
    ece: float | None
    excess: float | None


@dataclass(frozen=True)
class _Tried:
    """(N,) each. `p`: of the chosen arm, nan where the guard stepped in. `fixed`: of the best fixed arm."""

    category: NDArray[np.object_]
    text: NDArray[np.object_]
    p: Array
    right: Array
    energy_j: Array
    fixed_right: Array
    fixed_j: Array


def unseen(data: Prepared, taught: Picks, tested: Picks, at: At, say: Say, seed: int = 0) -> list[Unseen]:
    """Each category of the `tested` rows by the `taught` ones of other tasks, then all together, by each of
    `KINDS`. `at`: prices to choose from. Where there is nothing to leave out, or too little is left, that is
    said.
    """
    categories = data.table.categories
    tasks = np.array([None if name is None else name.removesuffix(CHOICE) for name in categories])
    if None in categories or len(set(tasks)) < 2:
        say("questions without a category, or of one kind alone: none is left out")
        return []
    found = []
    for which in KINDS:
        tried = []
        for task in dict.fromkeys(tasks[tested]):
            here, queries = tested[tasks[tested] == task], data.table.queries
            rest = taught[
                (tasks[taught] != task) & ~np.isin(queries[taught].astype(str), queries[here].astype(str))
            ]
            if (texts := len(set(queries[rest]))) < LEAST:
                say(
                    f"{task} is not left out: {texts} different questions of others are too few to learn from"
                )
                continue
            tried.append(_tried(which, data.spared, rest, here, at(rest), seed, data.table.energy_j))
        found += [] if not tried else list(_told(which, tried))
    return found


def _tried(
    which: str, read: Prepared, rest: Picks, here: Picks, at: Sequence[float], seed: int, whole_j: Array
) -> _Tried:
    """The rows `here` by what `rest` taught. `whole_j` (Q, A): joules of an arm that nobody read for."""
    right, texts = read.table.correct, read.table.queries
    price = chosen_price(learnt(read, rest, seed, which), at)
    fixed = strongest(read.table.take(rest))
    model = Performance.fit(read.features[rest], right[rest], kind=KINDS[which], seed=seed, texts=texts[rest])
    p = model.predict(read.features[here]).p
    expected = taught_costs(read, rest, seed).predict(read.features[here]).expected
    outside = model.projection.outside(read.features[here])
    arms = np.where(outside, fixed, priced(p, expected, price))
    return _Tried(
        read.table.categories[here],
        texts[here],
        np.where(outside, np.nan, picked(p, arms)),
        picked(right[here], arms),
        picked(read.table.energy_j[here], arms) + read.read_j[here],
        right[here, fixed],
        whole_j[here, fixed],
    )


def _told(which: str, tried: Sequence[_Tried]) -> Iterator[Unseen]:
    whole = _Tried(
        *(np.concatenate(parts) for parts in zip(*(vars(one).values() for one in tried), strict=True))
    )
    for category in (*dict.fromkeys(whole.category), None):
        mine = np.ones(len(whole.p), bool) if category is None else whole.category == category
        yield _share(which, category, _Tried(*(part[mine] for part in vars(whole).values())))


def _share(which: str, category: str | None, tried: _Tried) -> Unseen:
    columns = np.stack([tried.right, tried.energy_j, tried.fixed_right, tried.fixed_j], axis=1)
    drawn = resampled(columns, list(tried.text), RESAMPLES, 0)

    def interval(statistic: Callable[[Array], Array]) -> Interval:
        """Of (4, …) means."""
        return between(float(statistic(columns.mean(0))), statistic(drawn.T))

    known = ~np.isnan(tried.p)
    p, right = tried.p[known], tried.right[known]
    return Unseen(
        which,
        category,
        len(known),
        float(1 - known.mean()),
        interval(lambda mean: mean[0]),
        interval(lambda mean: mean[1]),
        interval(lambda mean: POINTS * (mean[2] - mean[0])),
        interval(lambda mean: 1 - mean[1] / mean[3]),
        ece(p, right) if known.any() else None,
        float(POINTS * (p.mean() - right.mean())) if known.any() else None,
    )
