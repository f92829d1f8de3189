"""A study of single-shot joules against repetition as lines of `bench.record`, as a table, and its verdict.

One record for each comparison, phase as compared; one for each check with how many lie outside of their 95 %
interval beside how many may, which `bench.report` shows among the checks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.tables import markdown
from bench.truth.findings import Comparison, Study

BENCHMARK = "energy_truth"
WANTED = {"comparison": 40}  # figures below which the verdict is "too few"
CHECKS = ("comparison", "additivity", "differencing", "sham")


def allowed(count: int) -> int:
    """The least number outside that right 95 % intervals exceed in fewer than 5 % of such studies.

    4 of 40. Figures that share a power model err together, so that this is no exact test.
    """

    def beyond(limit: int) -> float:
        return 1 - sum(math.comb(count, k) * 0.05**k * 0.95 ** (count - k) for k in range(limit + 1))

    return next(limit for limit in range(count + 1) if beyond(limit) < 0.05)


def problems(study: Study, wanted: Mapping[str, int] = WANTED) -> list[str]:
    """What speaks against the figures, one line each; empty where all holds."""
    found = []
    for check in CHECKS:
        told = study.of(check)
        outside = sum(bool(c.outside) for c in told)
        if len(told) < wanted.get(check, 1):
            found.append(f"{check}: {len(told)} figures, {wanted.get(check, 1)} are needed")
        elif outside > allowed(len(told)):
            found.append(f"{check}: {outside} of {len(told)} outside, at most {allowed(len(told))} may be")
    if study.shuffle is None:
        found.append("label shuffle: not told, too few requests")
    elif not study.shuffle.told_apart:
        found.append("label shuffle: shuffled labels reproduce the prefills: what is compared tells nothing")
    return found + [f"the time was too short for {what}" for what in study.cut]


def table(study: Study) -> str:
    """Every comparison, then what each check comes to."""
    rows = []
    for c in study.comparisons:
        shown = (
            "not told"
            if c.single.energy_j is None
            else f"{c.single.energy_j:.4g} ± {1.96 * c.single.sd_j:.2g}"
        )
        off = "" if c.difference_j is None else f"{c.difference_j / c.truth.energy_j:+.1%}"
        verdict = {None: c.single.reason, True: "OUTSIDE", False: "inside"}[c.outside]
        power = "" if c.power_off is None else f"{c.power_off:+.1%}"
        size = f"{c.check} {c.size.prompt_tokens} + {c.size.new_tokens}, {c.what}"
        truth = f"{c.truth.energy_j:.4g} ± {c.truth.half_j:.2g}"
        rows.append([size, shown, truth, off, power, f"{c.truth.gap_share:.1%}", verdict])
    header = ("", "single, J", "repeated, J", "off", "at its own s", "gaps", "95 %")
    return "\n\n".join([markdown(header, rows), "\n".join(summary(study))])


def summary(study: Study) -> list[str]:
    """One line a check."""
    lines = []
    for check in CHECKS:
        told, all_of = study.of(check), sum(c.check == check for c in study.comparisons)
        outside = sum(bool(c.outside) for c in told)
        refused = f", {all_of - len(told)} refused by the model" if all_of > len(told) else ""
        lines.append(
            f"{check}: {outside} of {len(told)} outside their 95 % interval, "
            f"{allowed(len(told))} may be{refused}"
        )
        if check == "comparison":
            alone = sum(bool(c.power_outside) for c in told)
            lines.append(f"  at their own seconds, that is by power alone: {alone} of {len(told)}")
    shuffle = study.shuffle
    if shuffle is not None:
        wrong = f"refused ({shuffle.reason})" if shuffle.shuffled is None else f"{shuffle.shuffled:.1%} off"
        lines.append(f"label shuffle: prefills {shuffle.right:.1%} off, with shuffled labels {wrong}")
    return lines


@dataclass(frozen=True, slots=True)
class Recorder:
    """Makes the records of one study. `case`: model, whether its weights are random. `source`: of joules."""

    where: Stamp
    arm: Arm
    case: Case
    source: str
    measured: bool
    benchmark: str = BENCHMARK

    def comparison(self, found: Comparison) -> Record:
        """With the truth's blocks as samples."""
        single, truth, half = found.single, found.truth, 1.96 * found.single.sd_j
        by_model = f"{self.source}, model, one request"
        if single.energy_j is None:
            mine = Value("J", None, reason=single.reason, source=by_model, measured=self.measured)
        else:
            ends = (single.energy_j - half, single.energy_j + half)
            mine = Value("J", single.energy_j, *ends, by_model, self.measured)
        repeats = f"{self.source}, {truth.ticks} whole ticks, {truth.requests} requests"
        ends = (truth.energy_j - truth.half_j, truth.energy_j + truth.half_j)
        derived = {
            "single": mine,
            "truth": Value("J", truth.energy_j, *ends, repeats, self.measured),
            "interval": Value("J", found.half_j, source="half-width of the difference's 95 % interval"),
            "gap_share": Value("1", truth.gap_share),
            "seconds": Value("s", single.seconds, source="of the single request"),
            "truth_seconds": Value("s", truth.seconds),
        }
        if found.outside is not None and found.power_off is not None:
            derived["outside"] = Value("1", float(found.outside))
            derived["power_off"] = Value("1", found.power_off, source="at the single request's own seconds")
        phase, size = f"{found.check}: {found.what}", found.size
        samples = {"truth_j": Metric("J", truth.blocks_j)}
        return self._record(phase, self.arm, size.prompt_tokens, size.new_tokens, samples, derived)

    def checks(self, study: Study) -> list[Record]:
        """How many lie outside beside how many may; of shuffled labels the ratio of the errors."""
        found = []
        for check in CHECKS:
            told = study.of(check)
            outside = float(sum(bool(c.outside) for c in told))
            metric = Metric("1", (outside,)) if told else Metric("1", (), "no figure was told")
            limit = {"allowed": Value("1", float(allowed(len(told)))), "figures": Value("1", len(told))}
            found.append(self._check(check, "outside", metric, limit))
        if study.shuffle is not None:
            ratio = study.shuffle.ratio
            limit = {
                "allowed": Value("1", 0.5, source="error with right labels over that with shuffled ones")
            }
            found.append(self._check("label shuffle", "error", Metric("1", (ratio,)), limit))
        return found

    def _check(self, check: str, what: str, metric: Metric, derived: Mapping[str, Value]) -> Record:
        named = replace(self.arm, name=f"{self.arm.name}, {what}")
        return self._record(check, named, 1, 0, {"error": metric}, derived)

    def _record(
        self,
        phase: str,
        arm: Arm,
        context: int,
        new: int,
        metrics: Mapping[str, Metric],
        derived: Mapping[str, Value],
    ) -> Record:
        case = replace(self.case, phase=phase, context=context, new_tokens=new)
        group = f"{self.where.run}/{self.benchmark}"
        return Record(self.benchmark, self.where, arm, case, group, metrics, derived)


def recorded_table(found: Sequence[Record]) -> str:
    """The comparisons of a file's records; "" where there are none."""
    rows = []
    for r in (r for r in found if r.benchmark.endswith(BENCHMARK) and "truth" in r.derived):
        single, truth, outside = r.derived["single"], r.derived["truth"], r.derived.get("outside")
        mine = single.reason or f"{single.value:.4g}"
        verdict = "no figure" if outside is None else "OUTSIDE" if outside.value else "inside"
        name = f"{r.case.model} {r.case.context} + {r.case.new_tokens}, {r.case.phase}"
        rows.append([name, mine, f"{truth.value:.4g}", f"{r.derived['interval'].value:.2g}", verdict])
    return (
        markdown(("Single against repeated", "single, J", "repeated, J", "± J", "95 %"), rows) if rows else ""
    )
