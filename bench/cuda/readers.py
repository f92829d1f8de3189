"""How fast the device reads its memory: kernels that do nothing else, in several cuts, and torch's own.

The best of them is the limit that everything else is a share of: no single one is trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from bench.bandwidth import Reader, buffer
from bench.bandwidth import record as reader_record
from bench.cuda.device_time import graph_timed
from bench.cuda.read_kernel import read_kernel
from bench.cuda.setting import Setting, first_line
from bench.timing import interleave
from kernels.gpu.tiles import Chip

_COLUMNS = 4096


@dataclass(frozen=True, slots=True)
class Cut:
    """A program reads `block` words of 4 bytes at a time, `ahead` blocks asked for before the first is used;
    `programs` of them per multiprocessor share the buffer.
    """

    block: int
    ahead: int
    warps: int
    programs: int

    @property
    def name(self) -> str:
        return f"triton {self.block}x{self.ahead}, {self.warps} warps, {self.programs} programs"


CUTS = (Cut(4096, 2, 8, 4), Cut(4096, 4, 8, 2), Cut(2048, 4, 4, 8), Cut(8192, 2, 8, 2), Cut(1024, 4, 4, 16))


def read(data: Tensor, out: Tensor, cut: Cut) -> None:
    """Read all of `data`, int32, whose size is a multiple of a program's blocks. Mutates `out`."""
    if data.numel() % (cut.block * cut.ahead):
        raise ValueError(f"{data.numel()} words are no multiple of {cut.block * cut.ahead}")
    read_kernel[(len(out),)](data, out, data.numel(), BLOCK=cut.block, AHEAD=cut.ahead, num_warps=cut.warps)


def device_readers(setting: Setting, *, cuts: Sequence[Cut] = CUTS) -> list[Reader]:
    """All that work here; the sums of ours are checked against torch's."""
    device = setting.device
    data = buffer(setting.scale.reader_bytes, device)
    words = data.view(torch.int32)
    table, vector = data.view(-1, _COLUMNS), data[:_COLUMNS].clone()
    made: list[tuple[str, Reader]] = []

    def add(name: str, dtype: str, call: object) -> None:
        try:
            timed = graph_timed(f"read: {name}", call, 1, device)  # type: ignore[arg-type]
        except Exception as error:  # one reader that does not run here is no reason to have none
            setting.say(f"reader {name} does not run: {first_line(error)}")
            return
        made.append((name, Reader(timed, data.nbytes, dtype, None)))

    add("torch sum fp32", "float32", lambda _: data.sum())
    add("torch mv fp32", "float32", lambda _: torch.mv(table, vector))
    if setting.backend == "gpu":
        programs = Chip.of(device).multiprocessors
        expected = int(words.sum(dtype=torch.int64)) & 0xFFFFFFFF
        for cut in cuts:
            if words.numel() % (cut.block * cut.ahead):
                continue
            out = torch.zeros(programs * cut.programs, dtype=torch.int64, device=device)
            read(words, out, cut)
            found = int(out.sum()) & 0xFFFFFFFF
            if found != expected:
                setting.say(f"reader {cut.name} reads {found:#x}, expected {expected:#x}: left out")
                continue
            add(cut.name, "int32", lambda _, out=out, cut=cut: read(words, out, cut))
    return [reader for _, reader in made]


def emit_reader(setting: Setting, reader: Reader, seconds: Sequence[float], group: str) -> None:
    """Its samples, among the records of a GPU."""
    setting.emit(replace(reader_record(reader, seconds, setting.where, group), benchmark="gpu/bandwidth"))


def fastest_readers(setting: Setting, keep: int = 2) -> list[Reader]:
    """All readers, timed and recorded; the `keep` fastest of them, for the cases to be measured beside."""
    found = device_readers(setting)
    rounds = 5 if setting.device.type == "cuda" else 2
    taken = interleave([reader.timed for reader in found], rounds=rounds, synchronise=setting.synchronise)
    group = setting.group("read")
    for reader in found:
        emit_reader(setting, reader, taken[reader.timed.name], group)
    found.sort(key=lambda reader: median(taken[reader.timed.name]) / reader.bytes)
    best = found[0]
    rate = best.bytes / median(taken[best.timed.name]) / 1e9
    setting.say(f"read bandwidth {rate:.0f} GB/s by {best.timed.name.removeprefix('read: ')}")
    return found[:keep]
