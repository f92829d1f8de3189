"""Records of experiments for the tests of what reads them."""

from collections.abc import Sequence
from dataclasses import replace

from bench.experiments.cell_record import make_record
from bench.experiments.occupancy import Occupancy
from bench.experiments.protocol import Cell, Measured, Sample
from bench.experiments.subject import Subject
from bench.record import Record
from bench.repeated import Repeated
from engine.energy.meter import Sensor
from tests.bench.records import STAMP
from tests.letters import CountedMeter

NOTE = "energy by nvml; text of question.jsonl, turn 1; windows of 2 s"


class Measuring(CountedMeter):
    """Only its name and worth are asked for."""

    name, measured, sensor = "nvml", True, Sensor()


def subject(name: str, *, shape_only: bool = True) -> Subject:
    import torch

    from engine.tokenizer import Tokenizer

    return Subject(
        name, name, shape_only, "gpu", "none", "bfloat16", torch.device("cpu"), Tokenizer.bytes(300), 4096
    )


def window(joules: float | None, seconds: float = 0.5, **occupancy: float | None) -> Sample:
    """One window of one request."""
    problem = None if joules is not None else "the meter failed"
    busy = {"gpu_share": 0.9, "gpu_memory_share": 0.5, "sm_clock_hz": 1.5e9, "memory_clock_hz": 2.6e9}
    seen = Occupancy(cpu_share=0.5, others={"train": 0.3}, **{**busy, **occupancy})  # type: ignore[arg-type]
    return Sample(Repeated(1, seconds, joules, None, 20, problem), 1, seconds / 3, seen)


def measured(cells: Sequence[Cell], windows: Sequence[Sequence[Sample]]) -> Measured:
    """With a device that draws 100 W when idle."""
    idle = Repeated(1, 3.0, 300.0, 3.0, 30, None)
    return Measured(tuple(cells), tuple(map(tuple, windows)), idle, idle, 0.05)


def record(
    benchmark: str,
    model: str,
    prompt: int,
    new: int,
    joules: Sequence[float | None],
    *,
    utc: str = STAMP.utc,
    note: str = NOTE,
    shape_only: bool = True,
    **occupancy: float | None,
) -> Record:
    """One cell of one prompt."""
    cells = [Cell(((1,) * prompt,), new, "text")]
    found = measured(cells, [[window(j, **occupancy) for j in joules]])
    where = replace(STAMP, utc=utc)
    return make_record(benchmark, where, subject(model, shape_only=shape_only), note, found, 0, Measuring())
