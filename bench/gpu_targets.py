"""What must hold on a GPU, worked out from the records of `bench.gpu` alone; what is missing says why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.cuda.setting import HOOKED, NO_DEPENDENT, OFF
from bench.record import Record
from bench.targets import Outcome
from bench.timing import Ratio, ratio

SMALL, LARGE = "preset:llama-3.2-1b", "preset:llama-3.1-8b"
OWN = "gpu none"


@dataclass(frozen=True, slots=True)
class Pick:
    """Which records of a part. `context`: the shortest of what was run, or the longest."""

    part: str
    arm: str
    model: str | None = None
    phase: str = "decode"
    rows: int = 1
    longest: bool = False

    def of(self, records: Sequence[Record]) -> list[Record]:
        """Those with samples; `arm` may be the beginning of a name, with a * behind it."""
        found = [
            r
            for r in records
            if r.benchmark == f"gpu/{self.part}"
            and (r.case.phase, r.case.rows) == (self.phase, self.rows)
            and self.model in (None, r.case.model)
            and self._named(r.arm.name)
            and _samples(r)
        ]
        contexts = [r.case.context for r in found]
        wanted = max(contexts, default=0) if self.longest else min(contexts, default=0)
        return [r for r in found if r.case.context == wanted]

    def _named(self, name: str) -> bool:
        return name.startswith(self.arm[:-1]) if self.arm.endswith("*") else name == self.arm

    def __str__(self) -> str:
        where = "" if self.phase == "decode" else f" ({self.phase})"
        return f"{self.arm.rstrip('*')}{where} in the part {self.part}"


@dataclass(frozen=True, slots=True)
class Goal:
    """`required` None: to be reported. `form`: of the value, which `find` gives, or raises `LookupError`."""

    name: str
    required: float | None
    aim: float
    form: str
    at_most: bool
    find: Callable[[Sequence[Record]], Ratio]

    @property
    def limits(self) -> tuple[str, str]:
        """As the table shows them."""
        sign = "≤" if self.at_most else "≥"
        required = "reported" if self.required is None else f"{sign} {self.form.format(self.required)}"
        return required, f"{sign} {self.form.format(self.aim)}"


def _samples(record: Record) -> tuple[float, ...]:
    metric = record.metrics.get("step_s") or record.metrics.get("run_s")
    return metric.samples if metric is not None else ()


def _changed(found: Ratio, change: Callable[[float], float]) -> Ratio:
    """Every number of it changed, by what keeps their order."""
    return Ratio(
        change(found.rounds),
        change(found.q1),
        change(found.q3),
        change(found.medians),
        change(found.low),
        change(found.high),
        found.n,
    )


def _seconds(pick: Pick, unit_s: float) -> Callable[[Sequence[Record]], Ratio]:
    """Of the case with most samples: every case has its own."""

    def find(records: Sequence[Record]) -> Ratio:
        found = pick.of(records)
        if not found:
            raise LookupError(f"no record of {pick}")
        samples = max((_samples(r) for r in found), key=len)
        return ratio(samples, [unit_s] * len(samples))

    return find


def _share(pick: Pick) -> Callable[[Sequence[Record]], Ratio]:
    """Of the read bandwidth."""

    def find(records: Sequence[Record]) -> Ratio:
        found = pick.of(records)
        if not found:
            raise LookupError(f"no record of {pick}")
        share = found[-1].derived.get("roofline_share") or found[-1].derived["read_share"]
        if share.value is None or share.low is None or share.high is None:
            raise LookupError(share.reason or "no interval")
        n = len(_samples(found[-1]))
        return Ratio(share.value, share.low, share.high, share.value, share.low, share.high, n)

    return find


def _times(
    slower: Pick, faster: Pick, change: Callable[[float], float] = lambda r: r
) -> Callable[[Sequence[Record]], Ratio]:
    """Seconds of the one over those of the other, within one group; of several slower ones the fastest."""

    def find(records: Sequence[Record]) -> Ratio:
        first, second = slower.of(records), faster.of(records)
        if not first or not second:
            raise LookupError(f"no record of {faster if first else slower}")
        pairs = [(a, b) for a in first for b in second if a.group == b.group]
        if not pairs:
            raise LookupError("measured, but not interleaved in one group")
        found = []
        for a, b in pairs:
            n = min(len(_samples(a)), len(_samples(b)))
            found.append(ratio(_samples(a)[:n], _samples(b)[:n]))
        return _changed(min(found, key=lambda r: r.medians), change)

    return find


def _rows(model: str) -> Callable[[Sequence[Record]], Ratio]:
    return _times(Pick("rows", OWN, model, rows=8), Pick("rows", OWN, model))


def _kernel(stage: str, rows: int = 1) -> Pick:
    return Pick("kernels", OWN, LARGE, stage, rows, longest=True)


_SDPA = Pick("kernels", "SDPA*", LARGE, "attention", 8, longest=True)
# Requirements as they were set for one run on an H200.
GOALS = (
    Goal(
        "Llama-3.2-1B bf16, one row, token chosen on the device",
        700,
        640,
        "{:.0f} µs",
        True,
        _seconds(Pick("decode", OWN, SMALL), 1e-6),
    ),
    Goal("Llama-3.1-8B bf16", 3.9, 3.75, "{:.2f} ms", True, _seconds(Pick("decode", OWN, LARGE), 1e-3)),
    Goal(
        "over transformers, static cache and compiled (1B)",
        2,
        3,
        "{:.2f}×",
        False,
        _times(Pick("decode", "transformers compiled", SMALL), Pick("decode", OWN, SMALL)),
    ),
    Goal(
        "int8 over own bf16 (8B)",
        1.6,
        1.8,
        "{:.2f}×",
        False,
        _times(Pick("quantized", OWN, LARGE), Pick("quantized", "gpu int8", LARGE)),
    ),
    Goal("8B gate and up, cold, of read bandwidth", 0.90, 0.95, "{:.0%}", False, _share(_kernel("gate_up"))),
    Goal("8B LM head, cold, of read bandwidth", 0.90, 0.95, "{:.0%}", False, _share(_kernel("head_select"))),
    Goal(
        "8B decode attention, 8k context, 8 rows, cold, of read bandwidth",
        0.80,
        0.90,
        "{:.0%}",
        False,
        _share(_kernel("attention", 8)),
    ),
    Goal(
        "the same over the fastest SDPA",
        1.0,
        1.0,
        "{:.2f}×",
        False,
        _times(_SDPA, _kernel("attention", 8)),
    ),
    Goal("8 samples of a shared 4k prompt over 1 row (1B)", 1.25, 1.1, "{:.2f}×", True, _rows(SMALL)),
    Goal("8 samples of a shared 4k prompt over 1 row (8B)", 1.25, 1.1, "{:.2f}×", True, _rows(LARGE)),
    Goal(
        "dependent launch, step time saved (1B)",
        None,
        0.08,
        "{:.1%}",
        False,
        _times(Pick("ablations", NO_DEPENDENT, SMALL), Pick("ablations", OWN, SMALL), lambda r: 1 - 1 / r),
    ),
    Goal(
        "hooks and meter on, step time (1B)",
        0.005,
        0.001,
        "{:+.2%}",
        True,
        _times(Pick("overhead", HOOKED, SMALL), Pick("overhead", OFF, SMALL), lambda r: r - 1),
    ),
)


def gpu_outcomes(records: Sequence[Record]) -> list[Outcome]:
    """Each goal from the records given."""
    found = []
    for goal in GOALS:
        try:
            found.append(Outcome(goal, goal.find(records)))
        except (LookupError, ValueError) as error:
            found.append(Outcome(goal, None, str(error)))
    return found
