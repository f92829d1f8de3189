"""A query's way: features, estimates, a choice, its answer, and the account of all that this took.

What goes wrong on the way is not raised: what is left answers the query, and the reason is in the result.
"""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from engine.answerers import Answerers
from engine.energy.hourly import HourlyBudget
from engine.errors import TokenjouleError
from engine.predict.features import text_features
from engine.prefilled import Prefilled
from engine.strategy.said import Said
from router.arms import Arms
from router.estimator import TEXT, Estimator
from router.policy import Array, Choice, Conditions, Estimate, Limits, after, choose, escalate

SCHEMA = "tokenjoule.route/1"


@dataclass(frozen=True, slots=True)
class Stage(Said):
    """One arm's go at a query."""

    arm: str


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
        chosen = Stage("", energy_j=0.0) if self.answered_by is None else self.stages[self.answered_by]
        failed = [stage.energy_j for stage in self.stages if stage is not chosen]
        reused = chosen.reused_tokens > 0
        moved_j = (self.features_j or 0.0) if reused else 0.0
        return {
            "router_j": self.router_j,
            "features_j": None if self.features_j is None else self.features_j - moved_j,
            "failed_j": sum(joules for joules in failed if joules is not None),
            "answer_j": None if chosen.energy_j is None else chosen.energy_j + moved_j,
            "total_j": self.total_j,
            "complete": None not in (self.features_j, self.router_j, chosen.energy_j, *failed),
            "prefill_reused": reused,
            "source": chosen.energy_source,
            "measured": bool(self.stages) and all(stage.measured for stage in self.stages),
        }

    def to_json(self) -> dict[str, Any]:
        """A plain object, ready for json.dumps; a chance that is not known is null."""
        found = {"schema": SCHEMA, "answer": self.answer, **asdict(self), "energy": self.energy()}
        for one in found["estimates"]:
            one |= {name: None for name in ("p", "p_low", "p_high") if math.isnan(one[name])}
        return found


class Router:
    """`estimator`: None answers by the fallback. `hour`: what requests may take in any hour.

    Use it in a `with`: it holds engines.
    """

    def __init__(
        self,
        arms: Arms,
        estimator: Estimator | None = None,
        *,
        energy_source: str = "auto",
        memory_gb: float | None = None,
        hour: HourlyBudget | None = None,
    ) -> None:
        limit_gb = arms.memory_gb if memory_gb is None else memory_gb
        self.answerers = Answerers(arms.models, energy_source=energy_source, memory_gb=limit_gb)
        self.arms, self.estimator, self.hour = arms, estimator, hour
        self._blind = "there is no estimator"
        if estimator is not None and estimator.digest != arms.digest:
            self.estimator, self._blind = None, "the estimator was calibrated for other arms"

    def __enter__(self) -> "Router":
        return self

    def __exit__(self, *_: object) -> None:
        self.answerers.__exit__()

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
        if self.hour is not None:
            left_j = self.hour.left_j()
            conditions = replace(conditions, hourly_share=left_j / self.hour.joules)
            limits = replace(limits, hourly_left_j=left_j)

        def left() -> Limits:
            spent_s = time.monotonic() - begun_s
            return after(limits, conditions, spent_j=routed.total_j, spent_s=spent_s)

        routed.estimates = [Estimate(arm.name, arm.family, arm.budget_tokens) for arm in self.arms.arms]
        known = before_j = blind = None
        deciding_s = begun_s
        try:
            features, known = self._features(routed, category)
            deciding_s, before_j = time.monotonic(), None if known is None else self.answerers.meter_j()
            routed.estimates = self._estimates(features[None], timed=limits.latency_s is not None)
        except TokenjouleError as error:
            blind = str(error)
        fallback = (self.estimator or self.arms).fallback
        decide = partial(choose, conditions=conditions, fallback=fallback, blind=blind)
        chosen: Choice | None = decide(routed.estimates, left())
        routed.router_s = time.monotonic() - deciding_s
        if before_j is not None:
            routed.router_j = self.answerers.meter_j() - before_j
        certain = -1.0
        while chosen is not None:
            routed.choices.append(chosen)
            if chosen.arm is None:
                break
            stage = self._asked(chosen, query, left(), known, seed)
            routed.stages.append(stage)
            believed = next(one for one in routed.estimates if one.arm == stage.arm)
            self._learn(stage, believed.energy_j, routed)
            tried = {done.arm for done in routed.stages}
            untried = [one for one in routed.estimates if one.arm not in tried]
            if stage.error is None:
                if (p := self._certainty(stage, believed.p)) > certain:
                    certain, routed.answered_by = p, len(routed.stages) - 1
                chosen = None if blind else escalate(certain, untried, left(), conditions)
            else:
                routed.notes.append(f"{stage.arm} failed: {stage.error}")
                settled = not untried or routed.answered_by is not None
                chosen = None if settled else decide(untried, left())
        if self.hour is not None:
            self.hour.spend(routed.total_j)
        routed.notes += self.answerers.pool.notes
        routed.elapsed_s = time.monotonic() - begun_s
        routed.grams = conditions.grams(routed.total_j)
        return routed

    def _asked(self, choice: Choice, query: str, left: Limits, known: Prefilled | None, seed: int) -> Stage:
        """`left`: of the limits. What no arm can keep is not asked of the one that answers all the same."""
        arm = self.arms[choice.arm or ""]
        budgets = [] if choice.fallback else [left.joules, left.hourly_left_j]
        said = self.answerers.answer(
            arm.model,
            query,
            arm,
            budget_tokens=choice.budget_tokens,
            budget_joules=min((joules for joules in budgets if joules is not None), default=None),
            deadline_s=left.latency_s,
            known=known,
            seed=seed,
        )
        return Stage(arm.name, **asdict(said))

    def _features(self, routed: Routed, category: str | None) -> tuple[Array, Prefilled | None]:
        """((F,), the query as it was read). Raises `TokenjouleError` saying why there are none."""
        if self.estimator is None:
            raise TokenjouleError(self._blind)
        if self.estimator.features == TEXT:
            return text_features(routed.query, category), None
        try:
            if self.answerers.source() != self.estimator.features:
                raise TokenjouleError(f"the features are those of {self.estimator.features}")
            features, known = self.answerers.read(routed.query)
        except TokenjouleError as error:
            raise TokenjouleError(f"the query could not be read: {error}") from error
        routed.features_j = known.energy.window_j
        return features, known

    def _estimates(self, features: Array, *, timed: bool) -> list[Estimate]:
        """features (1, F). `timed`: with seconds. Raises `TokenjouleError` where nothing is known."""
        assert self.estimator is not None, "there would be no features"
        estimator, projection = self.estimator, self.estimator.performance.projection
        if features.shape[1] != len(projection.mean):
            raise TokenjouleError(f"the estimator was made for other features than these {features.shape[1]}")
        if projection.outside(features)[0]:
            raise TokenjouleError("the query is unlike those that were calibrated on")
        chances = estimator.performance.predict(features)
        here = enumerate(self.arms[name] for name in estimator.arms)
        curves = {at: cost for at, arm in here if (cost := self.answerers.cost(arm.model, arm))}
        costs = estimator.energy.predict(features, curves)
        parts = [chances.p, chances.low, chances.high, costs.expected, costs.median, costs.q90]
        if timed and estimator.seconds is not None:
            parts.append(estimator.seconds.predict(features).q90)
        rows = np.concatenate(parts).T.tolist()
        told: dict[str, list[Any]] = {
            name: [None if math.isnan(value) else value for value in row]
            for name, row in zip(estimator.arms, rows, strict=True)
        }
        return [Estimate(arm.name, arm.family, arm.budget_tokens, *told[arm.name]) for arm in self.arms.arms]

    def _certainty(self, stage: Stage, p: float) -> float:
        """That the stage's answer is right, by all that is known now; `p` was known before."""
        if self.estimator is None or math.isnan(p):
            return 0.0
        return self.estimator.after_stage(self.estimator.arms.index(stage.arm), p, stage.confidence)

    def _learn(self, stage: Stage, predicted: float | None, routed: Routed) -> None:
        """From the ledger of a finished stage, the prefill that it went on from included."""
        cut = routed.choices[-1].budget_tokens < self.arms[stage.arm].budget_tokens
        if self.estimator is None or cut or stage.error or predicted is None or stage.energy_j is None:
            return
        actual = stage.energy_j + ((routed.features_j or 0.0) if stage.reused_tokens else 0.0)
        taught = self.estimator.energy.observed(self.estimator.arms.index(stage.arm), predicted, actual)
        self.estimator = replace(self.estimator, energy=taught)
