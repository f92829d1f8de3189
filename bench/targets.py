"""The ratios that this project holds itself to, worked out from records alone; missing ones say why.

A target compares two arms, or two cases of one arm, sample by sample within one interleaved group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.record import Record
from bench.timing import Ratio, ratio


@dataclass(frozen=True, slots=True)
class Pick:
    """Which records: an arm's engine, backend and packing, and the case."""

    engine: str
    backend: str
    quantizations: tuple[str, ...]
    phase: str = "decode"
    rows: int = 1
    context: int | None = None  # None: the shortest of the run

    def matches(self, record: Record, shortest: int) -> bool:
        """`shortest`: of the run's contexts, the one that stands for None."""
        arm, case = record.arm, record.case
        context = 0 if self.phase == "prefill" else self.context or shortest
        return (
            (arm.engine, case.phase, case.rows, case.context) == (self.engine, self.phase, self.rows, context)
            and arm.backend == self.backend
            and arm.quantization in self.quantizations
        )


@dataclass(frozen=True, slots=True)
class Target:
    """`slower` over `faster` in time is to be at least `required`; where `at_most`, at most.

    `faster` None: the share of the read bandwidth that `slower` reaches.
    """

    name: str
    required: float
    aim: float
    slower: Pick
    faster: Pick | None = None
    at_most: bool = False

    @property
    def form(self) -> str:
        """Of the value, in a table."""
        return "{:.0%}" if self.faster is None else "{:.2f}×"

    @property
    def limits(self) -> tuple[str, str]:
        """Required and aim, as a table shows them."""
        sign, form = "≤" if self.at_most else "≥", "{:.0%}" if self.faster is None else "{:g}×"
        return f"{sign} {form.format(self.required)}", f"{sign} {form.format(self.aim)}"


class Wanted(Protocol):
    """What a table shows of a target, and what decides whether it is met; `required` None: nothing does."""

    @property
    def name(self) -> str: ...

    @property
    def required(self) -> float | None: ...

    @property
    def aim(self) -> float: ...

    @property
    def at_most(self) -> bool: ...

    @property
    def form(self) -> str: ...

    @property
    def limits(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and what was measured; `ratio` None with a `reason`."""

    target: Wanted
    ratio: Ratio | None
    reason: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the required value is met; None where nothing was measured, or nothing is required."""
        if self.ratio is None or self.target.required is None:
            return None
        if self.target.at_most:
            return self.ratio.medians <= self.target.required
        return self.ratio.medians >= self.target.required


def _ours(scheme: str, **case: int) -> Pick:
    return Pick("tokenjoule", "cpu", (scheme,), **case)  # type: ignore[arg-type]


def _llama(*kinds: str) -> Pick:
    return Pick("llama.cpp", "ggml-cpu", kinds)


_TORCH = Pick("transformers", "torch", ("none",))
PLAIN = ("BF16", "F16", "F32")
CPU_TARGETS = (
    Target("bf16 decode, share of the read bandwidth", 0.80, 0.92, _ours("none")),
    Target("bf16 decode over llama.cpp BF16", 1.3, 1.5, _llama(*PLAIN), _ours("none")),
    Target("bf16 decode over transformers bf16", 2.0, 2.5, _TORCH, _ours("none")),
    Target("int8 decode over llama.cpp Q8_0", 1.4, 1.8, _llama("Q8_0"), _ours("int8")),
    Target("int8 decode over own bf16", 1.7, 1.9, _ours("none"), _ours("int8")),
    Target("int4 decode over llama.cpp Q4_0", 1.5, 2.0, _llama("Q4_0"), _ours("int4")),
    Target("int4 decode over own int8", 1.3, 1.6, _ours("int8"), _ours("int4")),
    Target(
        "prefill, 512 tokens, over transformers bf16",
        1.0,
        1.3,
        Pick("transformers", "torch", ("none",), "prefill"),
        Pick("tokenjoule", "cpu", ("none",), "prefill"),
    ),
    Target(
        "8 rows decoded together, step time over 1 row (bf16)",
        1.6,
        1.2,
        _ours("none", rows=8),
        _ours("none"),
        at_most=True,
    ),
    Target(
        "decode at 4k context, step time over 128 context (bf16)",
        1.3,
        1.15,
        _ours("none", context=4096),
        _ours("none"),
        at_most=True,
    ),
)


def outcomes(records: Iterable[Record], targets: Sequence[Target] = CPU_TARGETS) -> list[Outcome]:
    """Each target from the records of one run."""
    decoded = [record for record in records if record.benchmark == "decode"]
    shortest = min((r.case.context for r in decoded if r.case.phase == "decode"), default=0)
    return [_outcome(target, decoded, shortest) for target in targets]


def _outcome(target: Target, records: Sequence[Record], shortest: int) -> Outcome:
    slower = [record for record in records if target.slower.matches(record, shortest)]
    if not slower:
        return Outcome(target, None, f"no record of {_named(target.slower)}")
    if target.faster is None:
        record = slower[0]
        share = record.derived["read_share"]
        if share.value is None or share.low is None or share.high is None:
            return Outcome(target, None, share.reason or "no interval")
        n = len(record.metrics["step_s"].samples)
        return Outcome(
            target, Ratio(share.value, share.low, share.high, share.value, share.low, share.high, n)
        )
    faster = [record for record in records if target.faster.matches(record, shortest)]
    if not faster:
        return Outcome(target, None, f"no record of {_named(target.faster)}")
    pairs = [(a, b) for a in slower for b in faster if a.group == b.group]
    if not pairs:
        return Outcome(target, None, "measured, but not interleaved in one group")
    try:
        return Outcome(target, compared(*pairs[0]))
    except ValueError as error:
        return Outcome(target, None, str(error))


def compared(a: Record, b: Record) -> Ratio:
    """Seconds of `a` over seconds of `b`, of the rounds that both were in. Raises as `ratio` does."""
    first, second = a.metrics["step_s"].samples, b.metrics["step_s"].samples
    n = min(len(first), len(second))
    return ratio(first[:n], second[:n])


def _named(pick: Pick) -> str:
    where = (
        pick.phase if pick.phase != "decode" else f"{pick.rows} rows, context {pick.context or 'shortest'}"
    )
    return f"{pick.engine} {'/'.join(pick.quantizations)} ({where})"
