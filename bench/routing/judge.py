"""Rules for choosing arms side by side: joules saved, gap closed, area under the front, all by one bootstrap.

A rule is judged by its front: the hull of its points and of the fixed arms', as any rule may be mixed with
those at random. Intervals are percentiles over resampled questions, the same resamples for all rules, so that
differences are paired; questions that are asked more than once are drawn together. Hulls are taken in
hindsight, of every rule alike.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.calibration.hull import Hull
from bench.experiments.bootstrap import Interval, Resampled, between
from bench.routing.played import THRIFTY, Kind, Played, front
from router.policy import POINTS, Array

RESAMPLES = 1000
WITHIN = 0.005  # of the strongest arm's accuracy
_STEPS = 201


@dataclass(frozen=True)
class Point:
    """A rule at one knob. `lost`: accuracy points against the strongest arm; `saved`: share of its joules."""

    knob: str
    accuracy: Interval
    energy_j: Interval
    lost: Interval
    saved: Interval


@dataclass(frozen=True)
class Verdict:
    """`saved`: share of the strongest arm's joules, at an accuracy within half a point of its.

    `gap`: share of the accuracy between the strongest arm and the oracle, at no more joules than the
    strongest takes. The oracle sees the answers as they were sampled: where all arms guess, one of many is
    right by luck that no rule can foresee, and nothing bounds how much of the gap that is. `joules_gap`:
    `saved` as a share of what the thrifty oracle saves at the same accuracy. Luck spares that oracle joules
    too, but never more than all: `joules_gap` is at least `saved`, and errs to the small side.

    `area`: mean accuracy over joules from the cheapest to the strongest arm. `over_mix`, `over_agreement`:
    area beyond that of fixed arms alone, of agreement of two; in points. `over`: beyond that of each baseline
    by name.
    """

    rule: Played
    points: tuple[Point, ...]
    saved: Interval
    gap: Interval
    joules_gap: Interval
    area: Interval
    over_mix: Interval
    over_agreement: Interval
    over: Mapping[str, Interval]


@dataclass(frozen=True)
class _World:
    """All rules' means over one set of questions."""

    means: Array
    columns: dict[str, slice]
    strongest: int

    def of(self, name: str) -> Array:
        """(2K,): accuracy by knob, then joules."""
        return self.means[self.columns[name]]

    def strong(self, fixed: str) -> tuple[float, float]:
        """Accuracy and joules of the strongest arm."""
        each = self.of(fixed)
        return float(each[self.strongest]), float(each[len(each) // 2 + self.strongest])

    def front(self, *names: str) -> Hull:
        parts = [self.of(name).reshape(2, -1) for name in names]
        return front(np.concatenate(parts, axis=1).ravel())


def judge(
    rules: Sequence[Played],
    *,
    queries: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Verdict]:
    """Of every rule. `rules` holds the fixed arms, the oracle and, where there are such, the thrifty one and
    agreement of two.

    `queries`: of each question, its text, where some are asked more than once.
    """
    fixed = next(rule.name for rule in rules if rule.kind is Kind.FIXED)
    oracle = next(rule.name for rule in rules if rule.kind is Kind.ORACLE and rule.name != THRIFTY)
    agreement = next((rule.name for rule in rules if rule.name.startswith("agreement")), None)
    thrifty = next((rule.name for rule in rules if rule.name == THRIFTY), None)
    baselines = [rule.name for rule in rules if rule.kind is Kind.BASELINE]
    columns, ends = {}, 0
    for rule in rules:
        columns[rule.name] = slice(ends, ends + 2 * len(rule.knobs))
        ends += 2 * len(rule.knobs)
    table = np.concatenate([rule.columns() for rule in rules], axis=1)
    strongest = int(np.argmax(next(rule for rule in rules if rule.name == fixed).accuracy()))
    drawn = resampled(table, list(range(len(table)) if queries is None else queries), resamples, seed)
    worlds = [_World(row, columns, strongest) for row in (table.mean(0), *drawn)]

    def interval(statistic: Callable[[_World], float]) -> Interval:
        first, *others = map(statistic, worlds)
        return between(first, np.array(others))

    def verdict(rule: Played) -> Verdict:
        def area(world: _World, *others: str) -> float:
            return _area(world.front(fixed, *others), world.of(fixed), strongest)

        def over(other: str) -> Interval:
            return interval(lambda w: POINTS * (area(w, rule.name) - area(w, other)))

        def saved(world: _World, name: str = rule.name) -> float:
            right, spent = world.strong(fixed)
            return 1 - world.front(fixed, name).energy_at(right - WITHIN) / spent

        def joules_gap(world: _World, oracle: str) -> float:
            most = saved(world, oracle)
            return saved(world) / most if most > 0 else float("nan")

        def gap(world: _World) -> float:
            right, spent = world.strong(fixed)
            best = float(world.of(oracle)[0])
            reached = world.front(fixed, rule.name).accuracy_at(spent)
            return (reached - right) / (best - right) if best > right else float("nan")

        return Verdict(
            rule,
            tuple(_point(rule, knob, interval, fixed) for knob in range(len(rule.knobs))),
            interval(saved),
            interval(gap),
            Interval(None) if thrifty is None else interval(lambda w: joules_gap(w, thrifty)),
            interval(lambda w: area(w, rule.name)),
            over(fixed),
            Interval(None) if agreement is None else over(agreement),
            {name: over(name) for name in baselines} if rule.kind is Kind.OURS else {},
        )

    return [verdict(rule) for rule in rules]


def resampled(table: Array, clusters: Sequence[Hashable], resamples: int, seed: int) -> Array:
    """Means of columns (Q, C) over resampled clusters, (resamples, C)."""
    names = {name: at for at, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), table.shape[1] + 1))
    np.add.at(sums, [names[name] for name in clusters], np.hstack([table, np.ones((len(table), 1))]))
    means = Resampled(len(names), resamples=resamples, seed=seed).means(sums)
    return means[:, :-1] / means[:, -1:]


def _point(
    rule: Played, knob: int, interval: Callable[[Callable[[_World], float]], Interval], fixed: str
) -> Point:
    half = len(rule.knobs)

    def right(world: _World) -> float:
        return float(world.of(rule.name)[knob])

    def spent(world: _World) -> float:
        return float(world.of(rule.name)[half + knob])

    return Point(
        rule.knobs[knob],
        interval(right),
        interval(spent),
        interval(lambda w: POINTS * (w.strong(fixed)[0] - right(w))),
        interval(lambda w: 1 - spent(w) / w.strong(fixed)[1]),
    )


def _area(found: Hull, fixed: Array, strongest: int) -> float:
    """Mean accuracy over joules from the cheapest fixed arm to the strongest."""
    joules = fixed[len(fixed) // 2 :]
    at = np.linspace(joules.min(), joules[strongest], _STEPS)
    height = np.interp(at, found.energy_j, found.accuracy)
    return float((height[1:] + height[:-1]).mean() / 2)
