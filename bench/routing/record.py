"""The router's study as records: every rule at every knob, every rule's verdict, every arm's checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.bootstrap import Interval
from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.routing.checks import ArmCheck, Certified, Promised
from bench.routing.estimates import OURS
from bench.routing.judge import Point, Verdict
from bench.routing.played import Kind
from bench.routing.pressures import Pressed
from bench.routing.routed import NAMES
from bench.routing.split import Prepared
from bench.routing.unseen import Unseen
from router.policy import POINTS

BENCHMARK, FROZEN = "router", "router-testbed"  # crossed questions; fitted to some, tested on others
POINT, VERDICT, CHECK, CERTIFICATE = "point", "verdict", "check", "certificate"
PROMISE, PRESSURE, CHARGE, UNSEEN, CATEGORY = "promise", "pressure", "charge", "unseen", "category"
OVER = "over: "
PRICED = "points/J"  # how the name of a knob ends that is a price
TOO_FEW = "not defined here"


@dataclass(frozen=True)
class Study:
    """What was found of one file of outcomes. `source`: of the joules; `measured`: if a meter told them.

    `data`: of the questions that were tested. `unseen`: empty where there was no kind of task to leave out.
    `promised`, `pressed`, and `again`, how many tested questions
    have a text that was learnt from: where some questions are for fitting alone.
    """

    name: str
    data: Prepared
    verdicts: tuple[Verdict, ...]
    checks: tuple[ArmCheck, ...]
    certified: Certified
    source: str
    measured: bool
    unseen: tuple[Unseen, ...] = ()
    frozen: bool = False
    promised: tuple[Promised, ...] = ()
    again: int = 0
    pressed: tuple[Pressed, ...] = ()


ORDER = (Kind.OURS, Kind.BASELINE, Kind.FIXED, Kind.ORACLE)


def studies(records: Sequence[Record], *benchmarks: str) -> dict[str, list[Record]]:
    """The router's records by file of outcomes; of some `benchmarks`, by default of all."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.benchmark in (benchmarks or (BENCHMARK, FROZEN)):
            found.setdefault(record.case.model, []).append(record)
    return found


def of_group(records: Sequence[Record], group: str) -> list[Record]:
    """Ours first, then baselines, fixed arms and the oracle."""
    found = [record for record in records if record.group == group]
    return sorted(found, key=lambda record: ORDER.index(Kind(record.arm.engine)))


def records(study: Study, stamp: Stamp) -> Iterator[Record]:
    """Points first, in the order of the rules."""
    case = Case(study.name, False, "route", len(study.data.table.questions), 0)
    made = _Maker(study, stamp, case)
    for verdict in study.verdicts:
        accuracy, joules = verdict.rule.by_seed()
        for knob, point in enumerate(verdict.points):
            samples = {
                "accuracy": Metric("1", tuple(map(float, accuracy[:, knob]))),
                "energy_j": Metric("J", tuple(map(float, joules[:, knob]))),
            }
            yield made.of(POINT, verdict.rule.name, verdict.rule.kind, samples, made.point(point), point.knob)
    for verdict in study.verdicts:
        yield made.of(VERDICT, verdict.rule.name, verdict.rule.kind, {}, made.verdict(verdict))
    yield from made.categories()
    for check in study.checks:
        yield made.of(CHECK, check.arm, Kind.FIXED, checked(check), {})
    yield made.of(CERTIFICATE, "certified threshold", Kind.OURS, {}, _certified(study.certified))
    for unseen in study.unseen:
        kind = Kind.OURS if unseen.which == OURS else Kind.BASELINE
        yield made.of(UNSEEN, NAMES[unseen.which], kind, {}, made.unseen(unseen), unseen.category or "")
    if study.frozen:
        yield made.of(PROMISE, "certified threshold, tested", Kind.OURS, made.promises(), {})
        again = Value("1", float(study.again))
        told = {"energy": made.charge(), "again": again}
        yield made.of(CHARGE, "reading and deciding", Kind.OURS, {}, told)
    for pressed in study.pressed:
        yield made.of(PRESSURE, pressed.name, Kind.OURS, {}, made.pressed(pressed), pressed.level)


@dataclass(frozen=True)
class _Maker:
    study: Study
    stamp: Stamp
    case: Case

    def of(
        self,
        group: str,
        name: str,
        kind: Kind,
        metrics: Mapping[str, Metric],
        derived: Mapping[str, Value],
        note: str = "",
    ) -> Record:
        """`engine` says what the rule is to the comparison, `note` its knob."""
        arm = Arm(name, kind.value, "outcomes", "as recorded", "as recorded", None, note)
        benchmark = FROZEN if self.study.frozen else BENCHMARK
        return Record(benchmark, self.stamp, arm, self.case, group, metrics, derived)

    def point(self, point: Point) -> dict[str, Value]:
        return {
            "accuracy": _value("1", point.accuracy),
            "energy": self._joules("J", point.energy_j),
            "lost": _value("%", point.lost),
            "saved": self._joules("1", point.saved),
        }

    def categories(self) -> Iterator[Record]:
        """Means of every rule without a price in each category, which the note names; a sample for each seed.
        Of baselines those of one way only. None where questions have no category.
        """
        names = self.study.data.table.categories
        if None in names:
            return
        for rule in (verdict.rule for verdict in self.study.verdicts):
            if rule.kind is Kind.BASELINE and len(rule.knobs) > 1:
                continue
            for category in dict.fromkeys(names):
                accuracy, joules = rule.take(np.flatnonzero(names == category)).by_seed()
                for knob, told in enumerate(rule.knobs):
                    if told.endswith(PRICED):
                        continue
                    samples = {
                        "accuracy": Metric("1", tuple(map(float, accuracy[:, knob]))),
                        "energy_j": Metric("J", tuple(map(float, joules[:, knob]))),
                    }
                    yield self.of(CATEGORY, told or rule.name, rule.kind, samples, {}, category)

    def verdict(self, verdict: Verdict) -> dict[str, Value]:
        return {
            "saved": self._joules("1", verdict.saved),
            "gap": _value("1", verdict.gap),
            "joules_gap": self._joules("1", verdict.joules_gap),
            "area": _value("1", verdict.area),
            "over_mix": _value("%", verdict.over_mix),
            "over_agreement": _value("%", verdict.over_agreement),
            **{f"{OVER}{name}": _value("%", found) for name, found in verdict.over.items()},
        }

    def promises(self) -> dict[str, Metric]:
        """A sample for each seed that could certify a threshold."""
        found, none = self.study.promised, "no threshold could be certified"
        return {
            name: Metric(unit, tuple(values), None if found else none)
            for name, unit, values in (
                ("threshold", "1", [one.threshold for one in found]),
                ("above", "%", [POINTS * one.above for one in found]),
                ("saved", "1", [one.saved for one in found]),
            )
        }

    def charge(self) -> Value:
        """What a rule that has read a question pays for that, less what the cheapest arm is then spared."""
        data = self.study.data
        spared = data.spared_j[:, int(np.argmin(data.table.energy_j.mean(0)))]
        return self._joules("J", Interval(float((data.read_j - spared).mean())))

    def unseen(self, found: Unseen) -> dict[str, Value]:
        return {
            "questions": Value("1", float(found.questions)),
            "outside": Value("1", found.outside),
            "accuracy": _value("1", found.accuracy),
            "energy": self._joules("J", found.energy_j),
            "lost": _value("%", found.lost),
            "saved": self._joules("1", found.saved),
            "ece": _value("1", Interval(found.ece)),
            "excess": _value("%", Interval(found.excess)),
        }

    def pressed(self, found: Pressed) -> dict[str, Value]:
        return {
            "pressure": Value("1", found.pressure),
            "most_tokens": Value("1", float(found.most_tokens)),
            "tokens": Value("1", found.tokens),
            "accuracy": Value("1", found.accuracy),
            "energy": self._joules("J", Interval(found.energy_j)),
            "lost": _value("%", found.lost),
            "beyond": Value("1", found.beyond),
        }

    def _joules(self, unit: str, found: Interval) -> Value:
        return _value(unit, found, source=self.study.source, measured=self.study.measured)


def checked(check: ArmCheck) -> dict[str, Metric]:
    """A sample for each seed; why there is none, where a figure is not defined."""
    told = {"ece": check.ece, "covered": check.covered, "brier": check.brier}
    constant = None if check.auroc else "the arm is always right, or never"
    auroc = Metric("1", check.auroc or (), constant)
    return {**{name: Metric("1", samples) for name, samples in told.items()}, "auroc": auroc}


def _certified(found: Certified) -> dict[str, Value]:
    return {
        "resplits": Value("1", float(found.resplits)),
        "target_below": Value("1", found.target_below),
        "delta": Value("1", found.delta),
        "given": Value("1", found.given),
        "violated": _value("1", found.violated),
        "saved": _value("1", Interval(found.saved)),
    }


def _value(unit: str, found: Interval, *, source: str = "", measured: bool | None = None) -> Value:
    reason = TOO_FEW if found.value is None else None
    return Value(unit, found.value, found.low, found.high, source, measured, reason)
