"""A query's way: features, estimates, a choice, its answer, and the account of all that this took.

What goes wrong on the way is not raised: what is left answers the query, and the reason is in the result.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.pool import Pool
from engine.prefilled import Prefilled
from router.arms import Arm, Arms
from router.energy import Cost
from router.estimator import TEXT, Estimator
from router.features import read, source
from router.policy import Array, Choice, Conditions, Estimate, Limits, after, choose, escalate
from router.remote import answer_there, joules
from router.stage import Stage, answer_here
from router.text_features import text_features

SCHEMA = "tokenjoule.route/1"
HOUR_S = 3600.0


@dataclass
class Routed:
    """What became of a query. `choices`: the first, and one for every further stage, in their order.

    `notes`: what was not as it should be. `answered_by`: the place of the stage whose answer stands.
    `features_j`: of the prefill for features; `router_j`: of deciding, in `router_s`, by the meter of the
    model that read the query (where none did, it is not metered, and 0). None where nobody can tell.
    """

    query: str
    choices: list[Choice] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answered_by: int | None = None
    features_j: float | None = 0.0
    router_j: float | None = 0.0
    router_s: float = 0.0
    elapsed_s: float = 0.0
    grams: float | None = None

    @property
    def answer(self) -> str | None:
        return None if self.answered_by is None else self.stages[self.answered_by].answer

    @property
    def total_j(self) -> float:
        """Of all that is known."""
        parts = (self.features_j, self.router_j, *(stage.energy_j for stage in self.stages))
        return sum(part for part in parts if part is not None)

    def energy(self) -> dict[str, Any]:
        """J of each part; the total leaves out what nobody can tell, and then is not `complete`.

        A prefill that the answer's own stage went on from is the answer's; else it is the features'.
        """
        chosen = None if self.answered_by is None else self.stages[self.answered_by]
        failed = [stage.energy_j for number, stage in enumerate(self.stages) if number != self.answered_by]
        answer_j = 0.0 if chosen is None else chosen.energy_j
        parts = (self.features_j, self.router_j, answer_j, *failed)
        reused = chosen is not None and chosen.reused_tokens > 0
        moved_j = (self.features_j or 0.0) if reused else 0.0
        return {
            "router_j": self.router_j,
            "features_j": None if self.features_j is None else self.features_j - moved_j,
            "failed_j": sum(joules for joules in failed if joules is not None),
            "answer_j": None if answer_j is None else answer_j + moved_j,
            "total_j": self.total_j,
            "complete": None not in parts,
            "prefill_reused": reused,
            "source": "" if chosen is None else chosen.energy_source,
            "measured": bool(self.stages) and all(stage.measured for stage in self.stages),
        }

    def to_json(self) -> dict[str, Any]:
        """A plain object, ready for json.dumps; a chance that is not known is null."""
        found = {"schema": SCHEMA, "answer": self.answer, **asdict(self), "energy": self.energy()}
        for one in found["estimates"]:
            one |= {name: None for name in ("p", "p_low", "p_high") if math.isnan(one[name])}
        return found


class Router:
    """`estimator`: None answers by the fallback. `hourly_j`: what requests may take in any hour.

    Use it in a `with`: it holds engines. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        arms: Arms,
        estimator: Estimator | None = None,
        *,
        energy_source: str = "auto",
        memory_gb: float | None = None,
        hourly_j: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        local = {name: model.options() for name, model in arms.models.items() if model.local is not None}
        limit_gb = arms.memory_gb if memory_gb is None else memory_gb
        self.arms, self.pool = arms, Pool(local, energy_source=energy_source, memory_gb=limit_gb)
        self.hourly_j, self._clock = hourly_j, clock
        self._spent: deque[tuple[float, float]] = deque()
        self._reader: str | None = None
        self.estimator, self._blind = estimator, "there is no estimator"
        if estimator is not None and estimator.digest != arms.digest:
            self.estimator, self._blind = None, "the estimator was calibrated for other arms"

    def __enter__(self) -> "Router":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def hour_left_j(self) -> float | None:
        """Of the joules of an hour, what the last 60 minutes have left; None without such a budget."""
        if self.hourly_j is None:
            return None
        while self._spent and self._spent[0][0] <= self._clock() - HOUR_S:
            self._spent.popleft()
        return max(self.hourly_j - sum(spent for _, spent in self._spent), 0.0)

    def answer(
        self,
        query: str,
        limits: Limits | None = None,
        conditions: Conditions | None = None,
        *,
        category: str | None = None,
        seed: int = 0,
    ) -> Routed:
        """Raises `TokenjouleError` for an empty query alone."""
        if not query.strip():
            raise TokenjouleError("the query is empty")
        begun_s, routed = time.monotonic(), Routed(query)
        limits, conditions = limits or Limits(), conditions or Conditions()
        hour_j = self.hour_left_j()
        if hour_j is not None and self.hourly_j:
            conditions = replace(conditions, hourly_share=hour_j / self.hourly_j)
            limits = replace(limits, hourly_left_j=hour_j)

        def left() -> Limits:
            spent_s = time.monotonic() - begun_s
            return after(limits, conditions, spent_j=routed.total_j, spent_s=spent_s)

        features, known = self._features(routed, category)
        deciding_s, before = time.monotonic(), None if known is None else self.reader().poller.poll()
        blind = self._estimate(routed, features, timed=limits.latency_s is not None)
        decide = partial(choose, conditions=conditions, fallback=self.fallback, blind=blind)
        chosen: Choice | None = decide(routed.estimates, left())
        routed.router_s = time.monotonic() - deciding_s
        if before is not None:
            routed.router_j = (self.reader().poller.poll().energy_uj - before.energy_uj) / 1e6
        certain = -1.0
        while chosen is not None:
            routed.choices.append(chosen)
            if chosen.arm is None:
                break
            stage = self.run(self.arms[chosen.arm], chosen, query, left(), known, seed)
            routed.stages.append(stage)
            self._learn(stage, routed)
            tried = {done.arm for done in routed.stages}
            untried = [one for one in routed.estimates if one.arm not in tried]
            if stage.error is None:
                if (p := self._after(stage, routed)) > certain:
                    certain, routed.answered_by = p, len(routed.stages) - 1
                chosen = None if blind else escalate(certain, untried, left(), conditions)
            else:
                routed.notes.append(f"{stage.arm} failed: {stage.error}")
                settled = not untried or routed.answered_by is not None
                chosen = None if settled else decide(untried, left())
        self._spent.append((self._clock(), routed.total_j))
        routed.notes += self.pool.notes
        routed.elapsed_s = time.monotonic() - begun_s
        routed.grams = conditions.grams(routed.total_j)
        return routed

    @property
    def fallback(self) -> str:
        """The best fixed arm."""
        return self.arms.fallback if self.estimator is None else self.estimator.fallback

    def _features(self, routed: Routed, category: str | None) -> tuple[Array | str, Prefilled | None]:
        """((F,) features or why there are none, the query as it was read)."""
        if self.estimator is None:
            return self._blind, None
        if self.estimator.features == TEXT:
            return text_features(routed.query, category), None
        try:
            if source(self.reader()) != self.estimator.features:
                raise TokenjouleError(f"the features are those of {self.estimator.features}")
            features, known = self.read(routed.query)
        except TokenjouleError as error:
            return f"the query could not be read: {error}", None
        routed.features_j = known.energy.window_j
        return features, known

    def _estimate(self, routed: Routed, features: Array | str, *, timed: bool) -> str | None:
        """Of every arm, into `routed`; returns why nothing is known of them, None where it is."""
        blank = (math.nan, math.nan, math.nan, None, None, None)
        routed.estimates = [
            Estimate(arm.name, arm.family, arm.way.budget_tokens, *blank) for arm in self.arms.arms
        ]
        if isinstance(features, str) or self.estimator is None:
            return str(features)
        if len(features) != len(self.estimator.performance.projection.mean):
            return f"the estimator was made for other features than these {len(features)}"
        if self.estimator.performance.outside(features[None])[0]:
            return "the query is unlike those that were calibrated on"
        routed.estimates = self._estimated(self.estimator, features[None], timed)
        return None

    def reader(self) -> Engine:
        """The smallest local model, which reads queries. Raises `TokenjouleError` where there is none."""
        if self._reader is None:
            self._reader = self.pool.smallest()
        if self._reader is None:
            raise TokenjouleError("there is no local model to read queries")
        return self.pool.engine(self._reader)

    def read(self, query: str) -> tuple[Array, Prefilled]:
        """(F,) features of the smallest local model. Raises `TokenjouleError`."""
        return read(self.reader(), query, chat=self.arms.models[self._reader or ""].chat)

    def _estimated(self, estimator: Estimator, features: Array, timed: bool) -> list[Estimate]:
        """features (1, F). `timed`: seconds are asked for."""
        chances = estimator.performance.predict(features)
        costs = estimator.energy.predict(features, self._curves(estimator))
        parts = [chances.p, chances.low, chances.high, costs.expected, costs.median, costs.q90]
        if timed and estimator.seconds is not None:
            parts.append(estimator.seconds.predict(features).q90)
        told = dict(zip(estimator.arms, np.concatenate(parts).T.tolist(), strict=True))
        return [
            Estimate(
                *(one.name, one.family, one.way.budget_tokens, *told[one.name][:3]),
                *(None if math.isnan(value) else value for value in told[one.name][3:]),
            )
            for one in self.arms.arms
        ]

    def _curves(self, estimator: Estimator) -> dict[int, Cost]:
        """What costs here and now: by the curves of loaded engines, and by what servers are said to take."""
        found: dict[int, Cost] = {}
        for at, name in enumerate(estimator.arms):
            arm = self.arms[name]
            model, engine = self.arms.models[arm.model], self.pool.loaded.get(arm.model)
            curve = None if engine is None else engine.predictor.curve
            if curve is not None:
                found[at] = partial(_by_curve, curve.predict, arm.way.samples)
            elif model.curve is not None or model.joules_per_token is not None:
                found[at] = partial(_by_server, model)
        return found

    def run(
        self,
        arm: Arm,
        choice: Choice,
        query: str,
        left: Limits,
        known: Prefilled | None = None,
        seed: int = 0,
    ) -> Stage:
        """`left`: of the limits. What no arm can keep is not asked of the one that answers all the same."""
        model = self.arms.models[arm.model]
        if model.local is None:
            deadline_s = model.timeout_s if left.latency_s is None else left.latency_s
            return answer_there(model, arm, query, budget_tokens=choice.budget_tokens, deadline_s=deadline_s)
        try:
            engine = self.pool.engine(arm.model)
        except TokenjouleError as error:
            return Stage(arm.name, energy_j=0.0, error=str(error))
        budgets = [] if choice.fallback else [left.joules, left.hourly_left_j]
        return answer_here(
            engine,
            arm,
            query,
            chat=model.chat,
            budget_tokens=choice.budget_tokens,
            budget_joules=min((joules for joules in budgets if joules is not None), default=None),
            known=known if known is not None and known.model is engine.model else None,
            seed=seed,
        )

    def _after(self, stage: Stage, routed: Routed) -> float:
        """That the stage's answer is right, by all that is known now."""
        p = next(one.p for one in routed.estimates if one.arm == stage.arm)
        if self.estimator is None or math.isnan(p):
            return 0.0
        return self.estimator.after_stage(self.estimator.arms.index(stage.arm), p, stage.confidence)

    def _learn(self, stage: Stage, routed: Routed) -> None:
        """From the ledger of a finished stage, the prefill that it went on from included."""
        predicted = next(one.energy_j for one in routed.estimates if one.arm == stage.arm)
        cut = routed.choices[-1].budget_tokens < self.arms[stage.arm].way.budget_tokens
        if self.estimator is None or cut or stage.error or predicted is None or stage.energy_j is None:
            return
        actual = stage.energy_j + ((routed.features_j or 0.0) if stage.reused_tokens else 0.0)
        taught = self.estimator.energy.observed(self.estimator.arms.index(stage.arm), predicted, actual)
        self.estimator = replace(self.estimator, energy=taught)


def _by_curve(predict: Callable[..., tuple[float, float, float]], rows: int, n: float, m: float) -> float:
    return predict(max(round(n), 1), max(round(m / rows), 1), rows, prompts=1)[0]


def _by_server(model: Any, n: float, m: float) -> float:
    return joules(model, max(round(n), 1), max(round(m), 1))[0] or math.nan
