"""What every part of `bench.gpu` is given: the device, our backend, sizes, and where records go.

The same code runs on a CPU at the sizes of `TINY`: that is how it is tested where there is no GPU.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.record import Arm, Case, Metric, Record, Stamp, Value, append
from bench.timing import nothing
from bench.truth.plan import NEW_TOKENS, PROMPTS, Plan
from engine.locate import BUNDLED

# Arms that what must hold is about, in `bench.gpu_targets` too.
NO_DEPENDENT = "gpu none, no dependent launch"
OFF, METER, HOOKED = "no meter", "meter", "meter and hook"


@dataclass(frozen=True, slots=True)
class Scale:
    """`models`: as on the command line, None for the bundled one; the first is the small one.

    `steps` of a sample, `rounds` of a case, which ends after `case_s`; `energy_s` a block of joules, 0 for
    none. `rows` share a prompt of `prompt` tokens. `prefill`: lengths. `new_tokens`: of a generation.
    `reader_bytes`: of the buffer that shows the bandwidth. `cache_bytes`: what copies have to exceed three
    times over, None for the device's own. `compiles`: whether peers that compile take part.
    `waves_s`: how long each square wave of the sensor's recording takes. `truth`: of single-shot joules.
    `architectures`: of the paper's figures, with windows of `window_s` and so many `questions`.
    """

    models: tuple[str | None, ...]
    contexts: tuple[int, ...]
    steps: int
    rounds: int
    case_s: float
    energy_s: float
    rows: tuple[int, ...]
    prompt: int
    prefill: tuple[int, ...]
    new_tokens: int
    reader_bytes: int
    cache_bytes: int | None
    compiles: bool
    waves_s: float
    truth: Plan
    architectures: tuple[str, ...]
    window_s: float
    questions: int


FULL = Scale(
    models=("preset:llama-3.2-1b", "preset:llama-3.1-8b"),
    contexts=(128, 1024, 8192),
    steps=64,
    rounds=15,
    case_s=5.0,
    energy_s=5.5,
    rows=(1, 2, 4, 8, 16),
    prompt=4096,
    prefill=(512, 4096),
    new_tokens=512,
    reader_bytes=2 << 30,
    cache_bytes=None,
    compiles=True,
    waves_s=9.0,
    truth=Plan(PROMPTS, NEW_TOKENS, total_s=300.0),
    # The five smallest presets, smallest first.
    architectures=(
        *("preset:qwen2.5-0.5b", "preset:qwen3-0.6b", "preset:llama-3.2-1b"),
        *("preset:qwen2.5-1.5b", "preset:qwen3-1.7b"),
    ),
    window_s=1.0,
    questions=80,
)
TINY = Scale(
    models=(None,),
    contexts=(9, 21),
    steps=2,
    rounds=2,
    case_s=1.0,
    energy_s=0.0,
    rows=(1, 2),
    prompt=20,
    prefill=(16,),
    new_tokens=5,
    reader_bytes=1 << 16,
    cache_bytes=1000,
    compiles=False,
    waves_s=0.2,
    truth=Plan((8, 16), (2, 4), truth_s=0.06, truth_ticks=14, pool=8, idle_s=0.02, shams=1, total_s=20.0),
    architectures=(str(BUNDLED),),
    window_s=0.05,
    questions=2,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """`backend`: ours that is measured, "gpu" where there is one. `only`: of a part's groups, empty for all.

    `until_s`: on the clock of `time.monotonic`, when the part ends at the latest.
    """

    part: str
    device: torch.device
    backend: str
    scale: Scale
    where: Stamp
    energy_source: str
    out: Path | None
    until_s: float
    only: tuple[str, ...] = ()

    @property
    def benchmark(self) -> str:
        """The name of the part's records."""
        return f"gpu/{self.part}"

    @property
    def cuda_device(self) -> int | None:
        """Torch's index for the meters; None for a CPU."""
        return (self.device.index or 0) if self.device.type == "cuda" else None

    @property
    def synchronise(self) -> Callable[[], object]:
        """Waits for the device."""
        return torch.cuda.synchronize if self.device.type == "cuda" else nothing

    def group(self, name: str) -> str:
        return f"{self.where.run}/{self.part} {name}"

    def emit(self, *records: Record) -> None:
        """Written at once: a part that is killed has kept what it found."""
        if self.out is not None:
            append(self.out, records)

    def say(self, line: str) -> None:
        print(f"{self.part}: {line}", file=sys.stderr, flush=True)

    def failed(
        self, arm: Arm, case: Case, error: BaseException | str, group: str, *, metric: str = "step_s"
    ) -> None:
        """A record that says why there is no figure."""
        reason = first_line(error)
        self.say(f"{arm.name}, {case.phase}: NOT MEASURED: {reason}")
        unit = "1" if metric == "error" else "s"
        metrics = {metric: Metric(unit, (), reason)}
        self.emit(Record(self.benchmark, self.where, arm, case, self.group(group), metrics))


def first_line(error: BaseException | str) -> str:
    """Kind and message of an error in one line."""
    if isinstance(error, str):
        return error.strip() or "it failed without a word"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def near(found: torch.Tensor, expected: torch.Tensor, share: float) -> tuple[float, float]:
    """(largest error, what is allowed: `share` of the largest number); not finite counts as infinite.

    Raises `ValueError` for another shape.
    """
    if found.shape != expected.shape:
        raise ValueError(f"a result of {list(found.shape)}, expected {list(expected.shape)}")
    error = float((found.float() - expected.float()).abs().max())
    return (error if error == error else float("inf")), share * float(expected.float().abs().max())


def values(**given: float | tuple[float, str]) -> dict[str, Value]:
    """Derived values of unit "1", or of the unit given beside the number."""
    pairs = {name: v if isinstance(v, tuple) else (v, "1") for name, v in given.items()}
    return {name: Value(unit, number) for name, (number, unit) in pairs.items()}


def arm_of(setting: Setting, scheme: str, name: str, note: str = "", dtype: str = "bfloat16") -> Arm:
    """An arm of ours in this part."""
    return Arm(name, "tokenjoule", setting.backend, scheme, dtype, None, note)


def spread(samples: Sequence[float]) -> Metric:
    """Seconds as a metric."""
    return Metric("s", tuple(samples))
