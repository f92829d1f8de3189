"""What is given up where joules, time or clean power run short: the router's policy under rising pressure.

Three pressures are played over questions that nothing was fitted to: a queue that grows, the joules of an
hour that run out, and a recorded series of grid intensity on its way up. `router.policy.choose` decides, by
estimates and conditions alone. An arm whose thinking it cuts is played as the arm of its family next below,
which thinks no longer than was allowed: what is lost is lost at most. An answer that would take more joules
than its limit is cut there, as the engine does, and counts as wrong.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from bench.calibration.bootstrap import paired_interval
from bench.experiments.bootstrap import Interval
from bench.routing.split import Prepared, halves
from bench.routing.ways import parsed
from engine.errors import TokenjouleError
from router.estimator import Estimator
from router.policy import POINTS, Choice, Conditions, Estimate, Limits, Picks, choose, tightened

QUEUE, HOUR, GRID = "queue", "joules of an hour", "grid intensity"
QUEUES = (0, 1, 2, 4, 8, 16, 32)
HOUR_SHARE = 0.5  # of the joules that the questions would take at rest
PARTS = 8  # of the hour, and readings of the series


@dataclass(frozen=True)
class Pressed:
    """Questions under one pressure. `level`: of it, as text. `pressure`: what budgets are divided by.

    `most_tokens`: of thinking, that any arm of any question was allowed, as the policy tightened them.
    `tokens`: that the chosen ones were, on average.
    `lost`: accuracy points given up against no pressure, on the same questions. `beyond`: share of questions
    whose answer took more than a limit.
    """

    name: str
    level: str
    pressure: float
    most_tokens: int
    tokens: float
    accuracy: float
    energy_j: float
    lost: Interval
    beyond: float


@dataclass(frozen=True)
class _Answer:
    """`tokens`: of thinking, that the chosen arm was allowed, `most_tokens` that any was. `beyond`: took more
    than a limit.
    """

    correct: float
    energy_j: float
    tokens: int
    most_tokens: int
    beyond: bool


@dataclass(frozen=True)
class World:
    """Questions with what the router believes of each, (Q) lists of estimates, and what every arm gave."""

    data: Prepared
    estimates: Sequence[Sequence[Estimate]]
    fallback: str
    price: float

    @classmethod
    def of(cls, data: Prepared, fit: Picks, test: Picks, price: float, seed: int = 0) -> "World":
        """The router's estimator of the `fit` questions, on those of the `test`."""
        whole = data.spared
        table = replace(whole.table, features=whole.features)
        first, second = halves(fit, whole.table.queries, seed)
        estimator = Estimator.fit(table.take(first), table.take(second), seed=seed)
        here = whole.take(test)
        p, costs = estimator.performance.predict(here.features), estimator.energy.predict(here.features)
        parts = (p.p, p.low, p.high, costs.expected, costs.median, costs.q90)
        told = np.stack(parts, axis=2).tolist()  # (Q, A, 6)
        named = [(arm, *parsed(arm)) for arm in table.arms]
        estimates = [
            [
                Estimate(arm, f"{model}/{way.family}", way.budget_tokens, *numbers)
                for (arm, model, way), numbers in zip(named, row, strict=True)
            ]
            for row in told
        ]
        return cls(here, estimates, estimator.fallback, price)

    def limits(self, **more: float | None) -> Limits:
        return Limits(price=self.price, **more)  # type: ignore[arg-type]

    def decide(self, question: int, limits: Limits, conditions: Conditions) -> Choice:
        return choose(self.estimates[question], limits, conditions, fallback=self.fallback)

    def answer(self, question: int, limits: Limits, conditions: Conditions) -> _Answer:
        """Of the arm that is chosen; none, at no joules, where a strict limit leaves none."""
        choice = self.decide(question, limits, conditions)
        kept, _ = tightened(self.estimates[question], conditions.pressure)
        most = max(one.budget_tokens for one in kept)
        read_j = float(self.data.read_j[question])
        if choice.arm is None:
            return _Answer(0.0, min(read_j, _least(limits)), 0, most, False)
        arm = self.data.table.arms.index(self.recorded(choice))
        right, spent = self.data.table.correct[question, arm], self.data.table.energy_j[question, arm]
        whole_j = float(spent) + read_j
        grams = conditions.grams(whole_j)
        beyond = limits.grams is not None and grams is not None and grams > limits.grams
        if whole_j > _least(limits):
            return _Answer(0.0, _least(limits), choice.budget_tokens, most, True)
        return _Answer(float(right), whole_j, choice.budget_tokens, most, beyond)

    def recorded(self, choice: Choice) -> str:
        """The arm whose answer is known: the chosen one, or of its family the one that thinks longest within
        what is allowed. Raises `TokenjouleError` where all think longer.
        """
        chosen = next(one for one in self.estimates[0] if one.arm == choice.arm)
        within = [
            one
            for one in self.estimates[0]
            if one.family == chosen.family and one.budget_tokens <= choice.budget_tokens
        ]
        if not within:
            raise TokenjouleError(f"no arm of {chosen.family} thinks within {choice.budget_tokens} tokens")
        return max(within, key=lambda one: one.budget_tokens).arm


def _least(limits: Limits) -> float:
    found = [limit for limit in (limits.joules, limits.hourly_left_j) if limit is not None]
    return min(found, default=math.inf)


def pressed(world: World, series: Path) -> list[Pressed]:
    """All three, each from no pressure on."""
    rest = [world.answer(q, world.limits(), Conditions()) for q in range(len(world.estimates))]
    return [*_queues(world, rest), *_hour(world, rest), *_grid(world, rest, rising(series))]


def _queues(world: World, rest: Sequence[_Answer]) -> Iterator[Pressed]:
    for queue in QUEUES:
        conditions = Conditions(queue=queue)
        found = [world.answer(q, world.limits(), conditions) for q in range(len(rest))]
        yield _summed(world, QUEUE, f"{queue} wait", conditions.pressure, found, rest)


def _hour(world: World, rest: Sequence[_Answer]) -> Iterator[Pressed]:
    """The questions one after the other, on half of the joules that they would take at rest.

    Strict: a question that nothing left can answer goes unanswered. A level is an eighth of them, under the
    pressure that it ends with. Joules of reading are of the hour, too.
    """
    whole_j = HOUR_SHARE * sum(one.energy_j for one in rest)
    left_j, found, pressures = whole_j, [], []
    for question in range(len(rest)):
        conditions = Conditions(hourly_share=left_j / whole_j)
        limits = replace(world.limits(hourly_left_j=left_j), strict=True)
        found.append(world.answer(question, limits, conditions))
        pressures.append(conditions.pressure)
        left_j = max(left_j - found[-1].energy_j, 0.0)
    for part in np.array_split(np.arange(len(rest)), PARTS):
        rows = list(part)
        share = (whole_j - sum(one.energy_j for one in found[: rows[-1] + 1])) / whole_j
        level = f"{max(share, 0.0):.1%} left"
        yield _summed(world, HOUR, level, pressures[rows[-1]], found, rest, rows)


def _grid(world: World, rest: Sequence[_Answer], series: "Rising") -> Iterator[Pressed]:
    """All questions at each reading, with a limit of grams: what the strongest arm takes at the usual one."""
    table = world.data.table
    strongest_j = table.energy_j[:, table.arms.index(world.fallback)].mean()
    grams = Conditions(intensity_g_per_kwh=series.usual_g_per_kwh).grams(float(strongest_j))
    for reading in series.g_per_kwh:
        conditions = Conditions(intensity_g_per_kwh=reading, usual_g_per_kwh=series.usual_g_per_kwh)
        limits = world.limits(grams=grams)
        found = [world.answer(q, limits, conditions) for q in range(len(rest))]
        yield _summed(world, GRID, f"{reading:.0f} g/kWh", conditions.pressure, found, rest)


def _summed(
    world: World,
    name: str,
    level: str,
    pressure: float,
    found: Sequence[_Answer],
    rest: Sequence[_Answer],
    rows: Sequence[int] | None = None,
) -> Pressed:
    these = range(len(found)) if rows is None else rows
    change = np.array([POINTS * (rest[q].correct - found[q].correct) for q in these])
    _, clusters = np.unique(world.data.table.queries[list(these)].astype(str), return_inverse=True)
    low, high = paired_interval(change, clusters)
    return Pressed(
        name,
        level,
        pressure,
        max(found[q].most_tokens for q in these),
        float(np.mean([found[q].tokens for q in these])),
        float(np.mean([found[q].correct for q in these])),
        float(np.mean([found[q].energy_j for q in these])),
        Interval(float(change.mean()), low, high),
        float(np.mean([found[q].beyond for q in these])),
    )


@dataclass(frozen=True)
class Rising:
    """Readings of a series on its way up, in g/kWh, none below the one before; and its median."""

    g_per_kwh: tuple[float, ...]
    usual_g_per_kwh: float


def rising(series: Path) -> Rising:
    """The steepest climb of a recorded series, `PARTS` readings of it at most: each the highest so far.

    A CSV with the columns `time` (ISO 8601) and `average_g_per_kwh` or `marginal_g_per_kwh`, as the router
    reads them. Raises `TokenjouleError`.
    """
    try:
        with open(series, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        [column] = {"average_g_per_kwh", "marginal_g_per_kwh"} & set(rows[0])
        found = [
            float(row[column]) for row in sorted(rows, key=lambda row: datetime.fromisoformat(row["time"]))
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TokenjouleError(f"{series} is no series of intensities: {error!r}") from error
    if len(found) < 2 or not all(math.isfinite(reading) and reading > 0 for reading in found):
        raise TokenjouleError(f"{series} needs two readings or more, all of them above 0 g/kWh")
    values = np.array(found)
    lowest = np.minimum.accumulate(values)
    top = int(np.argmax(values - lowest))
    bottom = int(np.argmin(values[: top + 1]))
    climb = np.unique(np.maximum.accumulate(values[bottom : top + 1]))
    kept = climb[np.unique(np.linspace(0, len(climb) - 1, PARTS).round().astype(int))]
    return Rising(tuple(map(float, kept)), float(np.median(values)))
