"""The records of `bench.gpu` as markdown: what must hold, each part's table, what was wrong."""

from collections.abc import Sequence
from dataclasses import replace

from bench import tables
from bench.fidelity_table import fidelity_table
from bench.gpu_targets import gpu_outcomes
from bench.record import Record, Value
from bench.tables import GIGA, NOTHING, markdown

DECODED = ("decode", "quantized", "ablations", "rows")


def gpu_section(records: Sequence[Record]) -> str:
    """A document's part: what must hold, decode of the default case, where it is from."""
    found = [r for r in records if r.benchmark.startswith("gpu/")]
    parts = [tables.outcome_table(gpu_outcomes(found)), decode_table(found, "decode"), fidelity(found)]
    stamps = {r.stamp.run: r.stamp for r in found}
    shaped = {r.stamp.run for r in found if r.case.shape_only}
    parts += [tables.origin(stamp, run in shaped) for run, stamp in stamps.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def everything_gpu(records: Sequence[Record]) -> str:
    """All tables; "" where there are no such records."""
    found = [r for r in records if r.benchmark.startswith("gpu/")]
    if not found:
        return ""
    decoded = [decode_table(found, part) for part in DECODED]
    kernels = [replace(r, benchmark="kernels") for r in found if r.benchmark == "gpu/kernels"]
    parts = [part_table(found), tables.outcome_table(gpu_outcomes(found)), check_table(found), *decoded]
    parts += [tables.stage_table(kernels), fidelity(found), value_table(found)]
    readers = [replace(r, benchmark="bandwidth") for r in found if r.benchmark == "gpu/bandwidth"]
    parts.append(tables.bandwidth_table([r for r in readers if r.group.endswith(" read")]))
    return "\n\n".join(part for part in parts if part)


def part_table(records: Sequence[Record]) -> str:
    """Which parts came to their end, and in what time."""
    rows = [
        [r.case.phase, tables.metric(r.metrics["run_s"], lambda s: f"{s:.0f}")]
        for r in records
        if r.benchmark == "gpu/part"
    ]
    return markdown(("Part", "seconds"), rows) if rows else ""


def check_table(records: Sequence[Record]) -> str:
    """Checks that failed, and how many did not: what is right needs no row."""
    checks = [r for r in records if "error" in r.metrics]
    if not checks:
        return ""
    wrong = [r for r in checks if not holds(r)]
    title = f"Checks: {len(checks) - len(wrong)} of {len(checks)} hold"
    rows = [
        [
            f"{r.case.phase}: {r.arm.name}",
            tables.metric(r.metrics["error"], lambda v: f"{v:.3g}"),
            _number(r.derived.get("allowed"), "{:.3g}"),
        ]
        for r in wrong
    ]
    return markdown((title, "off by", "allowed"), rows)


def holds(record: Record) -> bool:
    """Whether a check's error is within what is allowed."""
    error, allowed = record.metrics["error"].median, record.derived.get("allowed")
    return error is not None and allowed is not None and allowed.value is not None and error <= allowed.value


def decode_table(records: Sequence[Record], part: str) -> str:
    """Steps of one part, arm by arm; of records of one arm in one group the last, which has the joules."""
    latest = {
        (r.group, r.arm.name, r.case): r
        for r in records
        if r.benchmark == f"gpu/{part}" and r.case.phase == "decode" and "step_s" in r.metrics
    }
    rows = []
    for (_, name, case), r in latest.items():
        took = r.metrics["step_s"]
        low, high = took.quartiles or (None, None)
        between = "" if low is None or high is None else f" ({low * 1e6:.1f}–{high * 1e6:.1f})"
        rows.append(
            [
                f"{case.model}, {case.rows} row{'s' * (case.rows > 1)}, context {case.context}",
                name,
                tables.metric(took, lambda s, b=between: f"{s * 1e6:.1f}{b}"),  # type: ignore[misc]
                _number(r.derived.get("bandwidth"), "{:.0f}", 1 / GIGA),
                _number(r.derived.get("read_share"), "{:.1%}"),
                tables.joules(r.derived.get("energy")),
            ]
        )
    header = (part.capitalize(), "arm", "µs per step", "GB/s", "of read", "J/token")
    return markdown(header, rows) if rows else ""


def fidelity(records: Sequence[Record]) -> str:
    """KL and NLL, prefill and decode."""
    found = [r for r in records if r.benchmark == "gpu/fidelity" and "kl" in r.derived]
    return fidelity_table([replace(r, benchmark="fidelity") for r in found])


def value_table(records: Sequence[Record]) -> str:
    """What the parts overhead, prefill, rows and sensor derive, one value a row."""
    rows = []
    for r in records:
        part = r.benchmark.removeprefix("gpu/")
        plain = part in ("overhead", "prefill", "sensor") or (part == "rows" and "run_s" in r.metrics)
        if not plain or "error" in r.metrics:
            continue
        for name, value in r.derived.items():
            shown = f"{NOTHING}: {value.reason}" if value.value is None else f"{value.value:.4g} {value.unit}"
            rows.append([f"{part}: {r.case.model} {r.case.phase}", r.arm.name, name, shown])
        for name, metric in r.metrics.items():
            text = tables.metric(metric, lambda v, unit=metric.unit: f"{v:.4g} {unit}")  # type: ignore[misc]
            rows.append([f"{part}: {r.case.model} {r.case.phase}", r.arm.name, name, text])
    return markdown(("", "arm", "value", "measured"), rows) if rows else ""


def _number(value: Value | None, form: str, factor: float = 1.0) -> str:
    if value is None or value.value is None:
        return tables.shown(value, str)
    return form.format(value.value * factor)
