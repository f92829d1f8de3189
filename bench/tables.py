"""Records as markdown tables, from records and nothing else. A cell without one says "not measured"."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from bench.record import Metric, Record, Stamp, Value
from bench.targets import CPU_TARGETS, Outcome, Target, outcomes

NOTHING = "not measured"
GIGA = 1e9


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def origin(stamp: Stamp, shape_only: bool) -> str:
    """One line on where figures are from."""
    commit = "unknown commit" if stamp.commit is None else f"commit {stamp.commit[:9]}"
    changed = " with changes" if stamp.dirty else ""
    versions = ", ".join(
        f"{name} {version}" for name, version in stamp.versions.items() if version and name != "driver"
    )
    weights = "; random weights: shape and speed only" if shape_only else ""
    return (
        f"{stamp.device}, {stamp.cores} cores, {stamp.utc[:10]}, {commit}{changed}{weights}. {versions}. "
        f"`{' '.join(stamp.command)}`"
    )


def decode_tables(records: Sequence[Record]) -> str:
    """A table for each case of one run's "decode" records, prefill last, with that run's peak memory."""
    decoded = [r for r in records if r.benchmark == "decode" and "/scaling" not in r.group]
    runs = {r.stamp.run for r in decoded}
    peaks = {r.arm.name: r for r in records if r.benchmark == "memory" and r.stamp.run in runs}
    names = list(dict.fromkeys(r.arm.name for r in decoded))
    cases = list(dict.fromkeys(r.case for r in decoded))
    parts = []
    for case in sorted(cases, key=lambda c: (c.phase != "decode", c.rows, c.context)):
        found = {r.arm.name: r for r in decoded if r.case == case}
        if case.phase == "prefill":
            title = f"Prefill of {case.new_tokens} tokens"
        else:
            title = f"Decode, {case.rows} row{'s' * (case.rows > 1)}, context {case.context}"
        header = (title, "tok/s", "µs per step", "GB/s", "of read", "J/token", "peak memory")
        parts.append(
            markdown(header, [_decode_row(name, found.get(name), peaks.get(name)) for name in names])
        )
    return "\n\n".join(parts)


def _decode_row(name: str, record: Record | None, peak: Record | None) -> list[str]:
    if record is None:
        return [name, NOTHING, *[""] * 5]
    derived, took = record.derived, record.metrics["step_s"]
    low, high = took.quartiles or (None, None)
    between = "" if low is None or high is None else f" ({_us(low)}–{_us(high)})"
    return [
        name,
        shown(derived.get("rate"), lambda v: f"{v:.3g}"),
        metric(took, lambda s: f"{_us(s)}{between}"),
        shown(derived.get("bandwidth"), lambda v: f"{v / GIGA:.1f}"),
        shown(derived.get("read_share"), lambda v: f"{v:.0%}"),
        joules(derived.get("energy")),
        NOTHING if peak is None else _peak(peak),
    ]


def _us(seconds: float) -> str:
    """Whole microseconds, or three digits of fewer than a hundred."""
    us = seconds * 1e6
    return f"{us:.0f}" if us >= 100 else f"{us:.3g}"


def _peak(record: Record) -> str:
    over = record.derived.get("peak_over_weights")
    share = f" ({over.value:.2f} × weights)" if over is not None and over.value is not None else ""
    return metric(record.metrics["peak_b"], lambda b: f"{b / GIGA:.2f} GB{share}")


def shown(value: Value | None, form: Callable[[float], str]) -> str:
    """Empty where a value does not apply, with a reason where it is missing."""
    if value is None:
        return ""
    return f"{NOTHING}: {value.reason}" if value.value is None else form(value.value)


def metric(found: Metric, form: Callable[[float], str]) -> str:
    """The median, or why there is none."""
    return f"{NOTHING}: {found.reason}" if found.median is None else form(found.median)


def joules(value: Value | None) -> str:
    """With its interval, and its source where it was not measured."""
    if value is None or value.value is None:
        return shown(value, str)
    spread = "" if value.high is None else f" ± {value.high - value.value:.2g}"
    kind = "" if value.measured else f" ({value.source.partition(',')[0]})"
    return f"{value.value:.3g}{spread}{kind}"


def target_table(records: Sequence[Record], targets: Sequence[Target] = CPU_TARGETS) -> str:
    """What must hold: required, aim, measured."""
    return outcome_table(outcomes(records, targets))


def outcome_table(found: Sequence[Outcome]) -> str:
    """As `target_table`, of outcomes at hand."""
    rows = []
    for outcome in found:
        target, measured = outcome.target, outcome.ratio
        limits = target.limits
        if measured is None:
            rows.append([target.name, *limits, f"{NOTHING}: {outcome.reason}", "", "", ""])
            continue
        form = target.form
        rows.append(
            [
                target.name,
                *limits,
                form.format(measured.medians),
                f"{form.format(measured.low)}–{form.format(measured.high)}",
                form.format(measured.rounds),
                str(measured.n),
                {True: "yes", False: "NO", None: ""}[outcome.holds],
            ]
        )
    header = ("", "required", "aim", "measured", "95 %", "by rounds", "rounds", "holds")
    return markdown(header, [row + [""] * (len(header) - len(row)) for row in rows])


def alone_table(records: Sequence[Record]) -> str:
    """Peers with the machine for themselves beside the same peers interleaved."""
    decoded = {(r.arm.name, r.case): r for r in reversed(records) if r.benchmark == "decode"}
    rows = []
    for alone in (r for r in records if r.benchmark == "alone"):
        beside = decoded.get((alone.arm.name, alone.case))
        if beside is None or beside.stamp.run != alone.stamp.run:
            continue
        pair = [r.metrics["step_s"] for r in (beside, alone)]
        best = [min(metric.samples) for metric in pair]
        cells = [
            metric(m, lambda s, b=b: f"{1e3 * s:.4g} (best {1e3 * b:.4g})")  # type: ignore[misc]
            for m, b in zip(pair, best, strict=True)
        ]
        rows.append([alone.arm.name, *cells, f"{best[0] / best[1]:.2f}"])
    return markdown(("ms per step", "interleaved", "alone", "ratio of the best"), rows) if rows else ""


def bandwidth_table(records: Sequence[Record]) -> str:
    """Readers of memory, of the part of a run in which all took part."""
    rows = [
        [
            r.arm.name.removeprefix("read: "),
            shown(r.derived["bandwidth"], lambda v: f"{v / GIGA:.1f}"),
            f"{r.case.shape[0] / min(r.metrics['run_s'].samples) / GIGA:.1f}" if r.case.shape else "",
        ]
        for r in records
        if r.benchmark == "bandwidth" and r.group.endswith("/read")
    ]
    return markdown(("Reader", "GB/s, median", "best"), rows) if rows else ""


def stage_table(records: Sequence[Record]) -> str:
    """The records of `bench.kernels`, in their order; with joules where one has any."""
    rows = []
    stages = [r for r in records if r.benchmark == "kernels"]
    energy = [name for name in _STAGE_JOULES if any(name in r.derived for r in stages)]
    for record in stages:
        derived, took = record.derived, record.metrics["run_s"]
        shape = "×".join(str(n) for n in record.case.shape or ())
        where = f"{record.case.rows} rows" + (
            f", context {record.case.context}" if record.case.context else ""
        )
        rows.append(
            [
                f"{record.case.phase} {shape}",
                record.arm.name,
                where,
                metric(took, _us),
                shown(derived.get("bandwidth"), lambda v: f"{v / GIGA:.1f}"),
                shown(derived.get("compute"), lambda v: f"{v / GIGA:.1f}"),
                shown(derived.get("roofline_share"), lambda v: f"{v:.0%}"),
                *(_millijoules(derived.get(name)) for name in energy),
            ]
        )
    header = ("Stage", "arm", "case", "µs", "GB/s", "GFLOP/s", "of roofline")
    return markdown((*header, *(_STAGE_JOULES[name] for name in energy)), rows) if rows else ""


_STAGE_JOULES = {"energy": "mJ", "energy_less_idle": "less idle"}


def step_table(records: Sequence[Record]) -> str:
    """Whole decode steps beside the sum of their stages, each measured by repetition."""
    rows = [
        [
            f"{r.arm.name}, {r.case.rows} rows, context {r.case.context}",
            _millijoules(r.derived.get("energy")),
            _millijoules(r.derived.get("stages_energy")),
            _millijoules(r.derived.get("remainder")),
            shown(r.derived.get("remainder_share"), lambda v: f"{v:.1%}"),
            _millijoules(r.derived.get("layers_energy")),
        ]
        for r in records
        if r.benchmark == "kernels" and r.case.phase == "step"
    ]
    header = (
        "Whole decode step",
        "mJ",
        "sum of stages",
        "left",
        "of the step",
        "layers in one call, and head",
    )
    return markdown(header, rows) if rows else ""


def _millijoules(value: Value | None) -> str:
    """As `joules`, times a thousand."""
    if value is None or value.value is None:
        return joules(value)
    low, high = (None if end is None else end * 1e3 for end in (value.low, value.high))
    return joules(replace(value, value=value.value * 1e3, low=low, high=high))
