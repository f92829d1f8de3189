"""The router's study as records: every rule at every knob, every rule's verdict, every arm's checks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.experiments.bootstrap import Interval
from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.routing.checks import ArmCheck, Certified
from bench.routing.judge import Point, Verdict
from bench.routing.played import Kind
from bench.routing.split import Prepared

BENCHMARK = "router"
POINT, VERDICT, CHECK, CERTIFICATE = "point", "verdict", "check", "certificate"
TOO_FEW = "not defined here"


@dataclass(frozen=True)
class Study:
    """What was found of one file of outcomes. `source`: of the joules; `measured`: if a meter told them."""

    name: str
    data: Prepared
    verdicts: tuple[Verdict, ...]
    checks: tuple[ArmCheck, ...]
    certified: Certified
    source: str
    measured: bool


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
    for check in study.checks:
        samples = {"ece": Metric("1", check.ece), "covered": Metric("1", check.covered)}
        yield made.of(CHECK, check.arm, Kind.FIXED, samples, {})
    yield made.of(CERTIFICATE, "certified threshold", Kind.OURS, {}, _certified(study.certified))


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
        return Record(BENCHMARK, self.stamp, arm, self.case, group, metrics, derived)

    def point(self, point: Point) -> dict[str, Value]:
        return {
            "accuracy": _value("1", point.accuracy),
            "energy": self._joules("J", point.energy_j),
            "lost": _value("%", point.lost),
            "saved": self._joules("1", point.saved),
        }

    def verdict(self, verdict: Verdict) -> dict[str, Value]:
        return {
            "saved": self._joules("1", verdict.saved),
            "gap": _value("1", verdict.gap),
            "area": _value("1", verdict.area),
            "over_mix": _value("%", verdict.over_mix),
            "over_agreement": _value("%", verdict.over_agreement),
        }

    def _joules(self, unit: str, found: Interval) -> Value:
        return _value(unit, found, source=self.study.source, measured=self.study.measured)


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
