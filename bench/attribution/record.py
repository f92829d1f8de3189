"""Scores of the attribution study as records: one for each cell or corner and each way of attributing."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from bench.attribution.score import ARMS, MODEL, Outcome, Score
from bench.record import Arm, Case, Metric, Record, Stamp, Value

BENCHMARK = "attribution"
WELL, CORNER = "well-specified", "corner"  # phases of the cases
JUDGED = ("token", "decode", "prefill")
_DIGITS = 6


def records(found: Iterable[tuple[str | None, Outcome]], run: Stamp) -> list[Record]:
    """All records of a run, cells first, in the order in which they came."""
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for corner, outcome in found:
        key = (WELL, outcome.cell) if corner is None else (CORNER, corner)
        cells.setdefault(key, []).append(outcome)
    return [_record(key, arm, outcomes, run) for key, outcomes in cells.items() for arm in ARMS]


def _record(key: tuple[str, str], arm: str, outcomes: Sequence[Outcome], run: Stamp) -> Record:
    phase, name = key
    case = Case(name, False, phase, rows=1, context=0)
    single = [outcome.single[arm] for outcome in outcomes if arm in outcome.single]
    pooled = [outcome.pooled[arm] for outcome in outcomes if arm in outcome.pooled]
    requests = [score for scores in single for score in scores]
    metrics = {
        "prefill_s": _metric(requests, lambda score: score.prefill_s, "s"),
        "token_error": _metric(requests, lambda score: score.token_error),
        "prefill_error": _metric(requests, lambda score: score.prefill_error),
        "decode_error": _metric(requests, lambda score: score.decode_error),
        "pooled_token_error": _metric(pooled, lambda score: score.token_error),
        "pooled_prefill_error": _metric(pooled, lambda score: score.prefill_error),
    }
    for judged in JUDGED:
        for suffix in ("", " with gain"):
            metrics[f"{judged}_covered{suffix.replace(' ', '_')}"] = _coverage(single, judged + suffix)
        metrics[f"pooled_{judged}_covered"] = _coverage([(score,) for score in pooled], judged)
    derived = {"scenarios": Value("1", len(outcomes))}
    if arm == MODEL:
        derived |= _verdicts(outcomes)
        metrics["fit_s"] = Metric("s", tuple(round(outcome.fit_s, _DIGITS) for outcome in outcomes))
        metrics["attribute_s"] = Metric("s", tuple(round(o.attribute_s, _DIGITS) for o in outcomes))
    return Record(
        BENCHMARK,
        run,
        Arm(arm, "tokenjoule", "simulated", "none", "float64", note="simulated joules, nothing was measured"),
        case,
        f"{run.run}/{name}",
        metrics,
        derived,
    )


def _verdicts(outcomes: Sequence[Outcome]) -> dict[str, Value]:
    """Shares of scenarios that were refused, and that were flagged; the first reason as the source."""

    def share(reasons: Sequence[tuple[str, ...]]) -> Value:
        given = [reason for reason in reasons if reason]
        return Value("1", len(given) / len(outcomes), source=given[0][0] if given else "")

    def refused(name: str) -> Value:
        return share([outcome.refused.get(name, ()) for outcome in outcomes])

    return {
        "refused": refused("calibration"),
        "pool_refused": refused("repeated"),
        "alone_refused": refused("alone"),
        "flagged": share([outcome.flagged for outcome in outcomes]),
    }


def _metric(scores: Sequence[Score], value: Callable[[Score], float], unit: str = "1") -> Metric:
    if not scores:
        return Metric(unit, (), "refused, or not asked for")
    return Metric(unit, tuple(round(value(score), _DIGITS) for score in scores))


def _coverage(scenarios: Sequence[Sequence[Score]], judged: str) -> Metric:
    """Of each scenario the share of what its intervals were to hold."""
    if not scenarios:
        return Metric("1", (), "refused, or not asked for")
    shares = [[score.covered[judged] for score in scores if judged in score.covered] for scores in scenarios]
    known = tuple(round(fmean(share), _DIGITS) for share in shares if share)
    return Metric("1", known) if known else Metric("1", (), "gives no interval")
