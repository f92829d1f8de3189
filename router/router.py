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
from engine.prefilled import Prefilled, ReadError
from engine.strategy.said import Said
from router.arms import Arms
from router.estimator import TEXT, Estimator
from router.policy import Array, Choice, Conditions, Estimate, Limits, after, allowed_j, choose, escalate

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
    model that read the query. None where nobody can tell. `booked_j`: held against limits for stages whose
    joules nobody can tell.
    """

    query: str
    choices: list[Choice] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answered_by: int | None = None
    features_j: float | None = 0.0
    router_j: float | None = None
    booked_j: float = 0.0
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
            spent_j, spent_s = routed.total_j + routed.booked_j, time.monotonic() - begun_s
            return after(limits, conditions, spent_j=spent_j, spent_s=spent_s)

        routed.estimates = [Estimate(arm.name, arm.family, arm.budget_tokens) for arm in self.arms.arms]
        known = before_j = blind = None
        deciding_s = begun_s
        try:
            known = self._read(routed)
            deciding_s, before_j = time.monotonic(), self._meter_j(routed, known)
            features = self.answerers.features(query, known) if known else text_features(query, category)
            asked = {"timed": limits.latency_s is not None, "ranked": limits.threshold is not None}
            routed.estimates = self._estimates(features[None], **asked)
        except TokenjouleError as error:
            blind = str(error)
        fallback = (self.estimator or self.arms).fallback
        decide = partial(choose, conditions=conditions, fallback=fallback, blind=blind)
        chosen: Choice | None = decide(routed.estimates, left())
        routed.router_s = time.monotonic() - deciding_s
        if before_j is not None and (after_j := self._meter_j(routed, known)) is not None:
            routed.router_j = after_j - before_j
        believed = routed.estimates
        while chosen is not None:
            routed.choices.append(chosen)
            if chosen.arm is None:
                break
            stage = self._asked(chosen, routed, left(), conditions, known=known, seed=seed)
            routed.stages.append(stage)
            self._book(stage, routed)
            tried = {done.arm for done in routed.stages}
            if stage.error is None:
                if self.estimator and chosen.p is not None:
                    believed = self.estimator.told(believed, stage.arm, chosen.p, stage.confidence)
                p = {one.arm: one.p for one in believed if one.p >= 0}  # not where nothing is known
                sure = [-1.0 if done.error else p.get(done.arm, 0.0) for done in routed.stages]
                routed.answered_by = sure.index(max(sure))
                chosen = escalate(max(sure), believed, left(), conditions, tried)
            else:
                routed.notes.append(f"{stage.arm} failed: {stage.error}")
                settled = len(tried) == len(routed.estimates) or routed.answered_by is not None
                chosen = None if settled else decide(routed.estimates, left(), tried=tried)
        if self.hour is not None:
            self.hour.spend(routed.total_j + routed.booked_j)
        self._uncertified(routed, limits, conditions)
        routed.notes += self.answerers.pool.notes
        routed.elapsed_s = time.monotonic() - begun_s
        routed.grams = conditions.grams(routed.total_j)
        return routed

    def _asked(
        self, choice: Choice, routed: Routed, left: Limits, conditions: Conditions, **passed: Any
    ) -> Stage:
        """`passed`: on to the answerer. What no arm can keep is not asked of the one that answers all the
        same; where nothing is known of any, it is cut at the joules that are left.
        """
        arm, note = self.arms[choice.arm or ""], routed.notes.append
        budget_j, within_s = allowed_j(left, conditions), left.latency_s
        if choice.fallback is not None and within_s is not None:
            note(f"{arm.name} is not held to the {within_s:.3g} s that are left")
            within_s = None
        if choice.fallback is not None and budget_j is not None:
            if choice.p is None and budget_j > 0 and self.answerers.is_local(arm.model):
                note(f"nothing is known of {arm.name}: it is cut at the {budget_j:.3g} J that are left")
            else:
                note(f"{arm.name} is not held to the {budget_j:.3g} J that are left")
                budget_j = None
        passed |= {"budget_tokens": choice.budget_tokens, "deadline_s": within_s}
        ask = partial(self.answerers.answer, arm.model, routed.query, arm, **passed)
        said = ask(budget_joules=budget_j)
        if choice.fallback and budget_j is not None and said.error and not said.energy_j:
            note(f"{arm.name} is not held to that: {said.error}")  # too little to begin with
            said = ask()
        return Stage(arm.name, **asdict(said))

    def _meter_j(self, routed: Routed, known: Prefilled | None) -> float | None:
        """None where no model of this machine read the query, or its meter tells nothing any more."""
        try:
            return None if known is None else self.answerers.meter_j()
        except TokenjouleError as error:
            routed.notes.append(f"what deciding took is not known: {error}")
            return None

    def _read(self, routed: Routed) -> Prefilled | None:
        """The query as the smallest local model reads it; None where the text's features are wanted. Raises
        `TokenjouleError` saying why there can be none.
        """
        if self.estimator is None:
            raise TokenjouleError(self._blind)
        if self.estimator.features == TEXT:
            return None
        try:
            if self.answerers.source() != self.estimator.features:
                raise TokenjouleError(f"the features are those of {self.estimator.features}")
            known = self.answerers.read(routed.query)
        except TokenjouleError as error:
            if isinstance(error, ReadError):
                routed.features_j = error.energy_j
            raise TokenjouleError(f"the query could not be read: {error}") from error
        routed.features_j = known.energy_j
        return known

    def _estimates(self, features: Array, *, timed: bool, ranked: bool) -> list[Estimate]:
        """features (1, F). `timed`: with seconds. `ranked`: with what a certificate ranks by. Raises
        `TokenjouleError` where nothing is known.
        """
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
        seconds = estimator.seconds.predict(features).q90 if timed and estimator.seconds else None
        parts = [chances.p, chances.low, chances.high, costs.expected, costs.median, costs.q90]
        rank, unknown = estimator.rank(features) if ranked else None, np.full_like(chances.p, np.nan)
        parts += [unknown if part is None else part for part in (seconds, rank)]
        rows = np.concatenate(parts).T
        told = dict(zip(estimator.arms, np.where(np.isnan(rows), None, rows).tolist(), strict=True))  # type: ignore[call-overload]
        return [Estimate(arm.name, arm.family, arm.budget_tokens, *told[arm.name]) for arm in self.arms.arms]

    def _book(self, stage: Stage, routed: Routed) -> None:
        """A finished stage teaches, unless something cut it. Where its joules are not known, limits count
        what nine cases of ten stay within.
        """
        believed = next(one for one in routed.estimates if one.arm == stage.arm)
        notes = [] if stage.note is None else [f"{stage.arm}: {stage.note}"]
        if stage.energy_j is None:
            routed.booked_j += (bound_j := believed.energy_q90_j or 0.0)
            notes.append(f"joules of {stage.arm} are not known: limits count {bound_j:.3g} J")
        routed.notes += notes
        cut = stage.cut or routed.choices[-1].budget_tokens < self.arms[stage.arm].budget_tokens
        read_j = routed.features_j if stage.reused_tokens else 0.0
        parts = stage.energy_j, read_j, believed.energy_j
        if self.estimator is None or cut or stage.error or None in parts:
            return
        arm, (spent_j, read_j, expected_j) = self.estimator.arms.index(stage.arm), parts
        taught = self.estimator.energy.observed(arm, expected_j, spent_j + read_j)  # type: ignore[operator,arg-type]
        self.estimator = replace(self.estimator, energy=taught)

    def _uncertified(self, routed: Routed, limits: Limits, conditions: Conditions) -> None:
        """Notes where a query went another way than the rule that was certified: one arm of all, as it is."""
        certificate = None if self.estimator is None else self.estimator.certificate
        if certificate is None or limits.threshold != certificate.threshold:
            return
        first = routed.choices[0]
        ways = {
            "budgets were tightened": conditions.pressure > 1,
            "limits took arms away": bool(first.removed or first.fallback),
            "a further arm was asked": len(routed.choices) > 1,
        }
        if left := [way for way, gone in ways.items() if gone]:
            routed.notes.append(f"not by the certified rule: {', '.join(left)}")
