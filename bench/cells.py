"""One arm in one case of `bench.decode`: how it is timed, and how its logits are told from a wrong arm's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from torch import Tensor

from bench.contender import Contender, Decoding, Filled
from bench.record import Case, Metric, Record, Stamp, Value
from bench.timing import Timed, WrongAnswer, ratio, settle

# Relative distance ‖logits - reference‖ / ‖reference‖ that an arm may have, by how its weights are packed;
# another model's logits are 1.4 away. int4 on random weights and random keys: 0.7.
PLAIN, FINE, COARSE = 0.1, 0.1, 1.0
TOLERANCES = {
    **dict.fromkeys(("none", "BF16", "F32", "F16"), PLAIN),
    **dict.fromkeys(("int8", "Q8_0"), FINE),
    **dict.fromkeys(("int4", "Q4_0"), COARSE),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm in one case, started."""

    contender: Contender
    decoding: Decoding
    case: Case
    name: str

    def timed(self, steps: int) -> Timed:
        """Its samples for `interleave`."""

        def setup() -> None:
            settle()
            self.decoding.ready()
            self.decoding.step()

        def run() -> None:
            for _ in range(steps):
                self.decoding.step()

        return Timed(self.name, run, setup, self.decoding.rollback, repeats=steps)

    def record(
        self,
        where: Stamp,
        group: str,
        samples: Sequence[float],
        reader: str,
        read: Sequence[float],
        energy: Value,
        seed: int = 0,
        *,
        benchmark: str = "decode",
    ) -> Record:
        """Of its seconds a step, beside those a byte that `reader` took in the same rounds."""
        step_s, case = median(samples), self.case
        share = ratio(read, [s / self.decoding.bytes for s in samples], seed=seed)
        derived = {
            "rate": Value("tok/s", case.rows / step_s),
            "bandwidth": Value(
                "B/s", self.decoding.bytes / step_s, source="bytes a step reads / median time"
            ),
            "bytes": Value("B", self.decoding.bytes, source="weights and cached positions"),
            "read_share": Value("1", share.medians, share.low, share.high, reader),
            "energy": energy,
        }
        arm = self.contender.arm
        note = "; ".join(part for part in (arm.note, self.decoding.note) if part)
        metrics = {"step_s": Metric("s", tuple(samples))}
        return Record(benchmark, where, replace(arm, note=note), case, group, metrics, derived)


def started(
    arms: Sequence[Contender],
    filled: Filled,
    case: Case,
    steps: int,
    held: ExitStack,
    drop: Callable[[Contender, str], None],
    *,
    tolerate: type[Exception] = WrongAnswer,
) -> Iterator[Cell]:
    """Started arms whose first step agrees with the first's of their packing, or else the first arm's.

    Only of those that decode from the same numbers: llama.cpp has a cache of its own. `drop` hears of the
    others, and of those that fail with what is to `tolerate`; `held` closes what was started.
    """
    references: dict[str, Tensor] = {}
    for contender in arms:
        try:
            decoding = contender.start(filled, steps)
            held.callback(decoding.close)
            decoding.ready()
            logits = decoding.logits()
            if logits is not None:
                packing = contender.arm.quantization
                if packing in references:
                    check_near("none", logits, references[packing])
                elif references:
                    check_near(packing, logits, next(iter(references.values())))
                references.setdefault(packing, logits)
        except tolerate as error:
            drop(contender, str(error).strip().partition("\n")[0] or type(error).__name__)
            continue
        yield Cell(contender, decoding, case, f"{contender.arm.name} {case.rows}x{case.context}")


def check_near(quantization: str, logits: Tensor, reference: Tensor) -> None:
    """Raise `WrongAnswer` where logits are further from the reference than their packing explains."""
    distance = float((logits - reference).norm() / reference.norm())
    allowed = TOLERANCES[quantization]
    if not distance <= allowed:
        raise WrongAnswer(f"{distance:.3g} away, {allowed:g} is allowed")
