"""All rules on one set of outcomes, judged side by side, and the checks of the estimators that they ask."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.calibration.tasks import refuse_test
from bench.routing import untrained
from bench.routing.cascade import cascades
from bench.routing.charged import charged, with_features
from bench.routing.checks import arm_checks, certified, promised
from bench.routing.escalated import escalated
from bench.routing.estimates import KINDS, OURS, PROBABILITIES, Costs, costs, probabilities
from bench.routing.judge import judge
from bench.routing.played import Played
from bench.routing.pressures import World, pressed
from bench.routing.reading import Reading, one_curve
from bench.routing.record import Study
from bench.routing.routed import At, as_chosen, chosen_price, learnt, prices_of, routed
from bench.routing.split import PARTS, Prepared, Split, crossed, frozen, prepared
from bench.routing.unseen import unseen
from engine.errors import UsageError
from engine.predict.outcomes import Outcome, Table
from router.policy import Array, Picks

MEASURED = "measured"
FINER = 8  # prices below the usual ones
Say = Callable[[str], None]
Ruled = tuple[list[Played], Array, Costs]


def studied(name: str, outcomes: Sequence[Outcome], seeds: int, resplits: int, say: Say) -> Study:
    """Every question is tested, by what others taught."""
    data = _prepared(name, Table.of(outcomes), say)
    if not data.text_only:
        say(f"{name}: what reading the questions for their features took is not known, and not charged")
    each, at = range(seeds), partial(prices_of, data.table)
    rules, believed, spent = ruled(data, each, crossed(data.table.queries, PARTS), at, say)
    say(f"{name}: kinds of tasks left out")
    whole = np.arange(len(data.table.questions))
    left_out = unseen(data, whole, whole, at, say)
    say(f"{name}: verdicts, checks, certificate")
    return Study(
        name,
        data,
        tuple(judge([*rules, *learnt_nothing(data.table)], queries=data.table.queries)),
        tuple(arm_checks(data, believed, spent)),
        certified(data, each, resplits),
        *worth(outcomes, data),
        unseen=tuple(left_out),
    )


def frozen_study(
    name: str,
    fit: Sequence[Outcome],
    test: Sequence[Outcome],
    readings: Mapping[str, Reading],
    *,
    seeds: int,
    resplits: int,
    deciding_j: float,
    series: Path | None,
    jobs: int,
    say: Say,
) -> Study:
    """The questions of `test` by what those of `fit` taught: no threshold, price or rate is from the test.

    `deciding_j`: of choosing an arm, charged with the reading of the question to every rule that chooses by
    it. `series`: of grid intensities; without it no pressure is played. `jobs`: seeds at a time. Raises
    `UsageError` where test questions are among those that are learnt from, `TokenjouleError` where joules of
    a model are by two curves. How many test questions have a text that was learnt from is said: facts to
    recall are the same in every split.
    """
    one_curve(readings.values())
    refuse_test({readings[one.question].split for one in fit if one.question in readings})
    if both := {one.question for one in fit} & {one.question for one in test}:
        raise UsageError(f"question {min(both)!r} is to be learnt from and to be tested")
    table = with_features(Table.of([*fit, *test]), readings)
    data = charged(_prepared(name, table, say), readings, deciding_j)
    of_fit = np.isin(data.table.questions.astype(str), [one.question for one in fit])
    taught, tested = np.flatnonzero(of_fit), np.flatnonzero(~of_fit)
    if not len(taught) or not len(tested):
        raise UsageError("nothing is left to learn from, or to be tested")
    again = int(np.isin(data.table.queries[tested].astype(str), data.table.queries[taught].astype(str)).sum())
    say(f"{name}: of {len(tested)} test questions {again} have a text that is among those learnt from")
    if silent := sum(not readings[question].curves for question in data.table.questions):
        say(f"{name}: {silent} readings do not say by which curve joules were told")
    each, at = range(seeds), partial(prices_of, data.table, finer=FINER)
    rules, believed, spent = _by_seed(data, each, taught, tested, at, jobs, say)
    here = data.take(tested)
    say(f"{name}: kinds of tasks left out")
    left_out = unseen(data, taught, tested, at, say)
    played = [*(rule.take(tested) for rule in rules), *learnt_nothing(here.table)]
    say(f"{name}: verdicts, checks, certificates")
    bounds = Costs(spent.expected[:, tested], spent.q90[:, tested])
    found = Study(
        name,
        here,
        tuple(judge(played, queries=here.table.queries)),
        tuple(arm_checks(here.spared, believed[:, tested], bounds)),
        certified(data.take(taught), each, resplits),
        *worth(test, here),
        frozen=True,
        promised=tuple(promised(data, taught, tested, each)),
        again=again,
        unseen=tuple(left_out),
    )
    if series is None:
        return found
    say(f"{name}: pressures")
    price = chosen_price(learnt(data.spared, taught, 0), at(taught))
    return replace(found, pressed=tuple(pressed(World.of(data, taught, tested, price), series)))


def _by_seed(
    data: Prepared,
    seeds: Sequence[int],
    taught: Picks,
    tested: Picks,
    at: At,
    jobs: int,
    say: Say,
) -> Ruled:
    """As `ruled`, in so many processes, each with seeds of its own."""
    if jobs == 1:
        return ruled(data, seeds, frozen(taught, tested), at, say)
    one = partial(_one_seed, data, taught, tested, at)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(one, seeds))
    say(f"{len(parts)} seeds")
    rules = [
        replace(
            same[0],
            correct=np.concatenate([rule.correct for rule in same]),
            energy_j=np.concatenate([rule.energy_j for rule in same]),
        )
        for same in zip(*(part[0] for part in parts), strict=True)
    ]
    believed = np.concatenate([part[1] for part in parts])
    spent = [part[2] for part in parts]
    expected, q90 = (np.concatenate([getattr(one, name) for one in spent]) for name in ("expected", "q90"))
    return rules, believed, Costs(expected, q90)


def _one_seed(data: Prepared, taught: Picks, tested: Picks, at: At, seed: int) -> Ruled:
    return ruled(data, [seed], frozen(taught, tested), at, lambda _: None)


def ruled(data: Prepared, seeds: Sequence[int], split: Split, at: At, say: Say) -> Ruled:
    """Rules that learn, and what the router's estimators say of each arm: p (S, Q, A), and joules.

    A rule that has read its questions pays for that, and its arms are spared what was read; one that goes by
    the text alone neither pays nor is spared.
    """
    say("cascades")
    read, unread = data.spared, data.unread
    chains = cascades(read, seeds, split, at)
    say("one arm for each query")
    spent = costs(read, seeds, split)
    free = spent if unread is data else costs(unread, seeds, split)
    believed = {
        which: probabilities(which, read if which in KINDS else unread, seeds, split)
        for which in PROBABILITIES
    }
    known = [[learnt(read, fold.train, seed) for fold in split(seed)] for seed in seeds]
    ours = read, seeds, split, believed[OURS], spent.expected, at, known
    paying = [*chains, as_chosen(*ours), escalated(*ours)]
    split_at = seeds, split, at
    paying += [routed(which, read.table, believed[which], spent.expected, *split_at) for which in KINDS]
    others = [
        routed(which, data.table, p, free.expected, *split_at)
        for which, p in believed.items()
        if which not in KINDS
    ]
    return [*(rule.plus(data.read_j) for rule in paying), *others], believed[OURS], spent


def learnt_nothing(table: Table) -> list[Played]:
    """Rules that need no teaching, and those that a comparison is made with."""
    agreed = untrained.agreement(table)
    oracles = [untrained.oracle(table), untrained.thrifty(table)]
    rules = [untrained.paper(table), untrained.fixed_arms(table), *oracles]
    return rules if agreed is None else [*rules, agreed]


def worth(outcomes: Sequence[Outcome], data: Prepared) -> tuple[str, bool]:
    """Where the joules are from, by arm, and whether all of them were measured."""
    source = {one.arm: one.energy_source for one in outcomes if one.arm in data.table.arms}
    told = list(dict.fromkeys(source.values()))
    if len(told) == 1:
        return told[0], told[0] == MEASURED
    return "; ".join(f"{arm}: {what}" for arm, what in source.items()), set(told) == {MEASURED}


def _prepared(name: str, table: Table, say: Say) -> Prepared:
    data = prepared(table)
    if data.left_out or data.dropped:
        say(f"{name}: without joules: {', '.join(data.left_out) or 'none'}; {data.dropped} questions dropped")
    say(f"{name}: {len(data.table.questions)} questions, {len(data.table.arms)} arms")
    return data
