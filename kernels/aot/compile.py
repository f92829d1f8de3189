"""From a variant to facts about its machine code. Needs Triton's own compiler and disassembler, no GPU.

Facts are read from the cubin: registers and stack by `cuobjdump -res-usage`, instructions by `nvdisasm`.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.aot import sass
from kernels.aot.pointers import pointers
from kernels.aot.record import WARP, Variant

# Where parameters begin in constant bank 0, by the first digit of the compute capability.
_FIRST_PARAMETER = {8: 0x160, 9: 0x210}
_PARAMETER = re.compile(r"\.param \.[usbf](\d+)\b[^,\n]*_param_\d+(?=,|\s*\))")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_KINDS = {
    **dict.fromkeys(("LDG", "LD", "LDGSTS", "UBLKCP", "UTMALDG"), "load"),
    **dict.fromkeys(("STG", "ST"), "store"),
    **dict.fromkeys(("ATOMG", "ATOM", "RED", "REDG"), "atomic"),
}


@dataclass(frozen=True, slots=True)
class Access:
    """One instruction that reads or writes global memory. `kind`: load, store or atomic. `bits` per thread.

    `pointers`: the parameters its address may come from. `before_wait`: it stands before the wait for the
    kernel that came first. `begin`, `end`: this instruction and the one that a load has to have come for,
    by number. `line`: of the source.
    """

    kind: str
    bits: int
    pointers: frozenset[str]
    before_wait: bool
    begin: int
    end: int
    line: str


@dataclass(frozen=True, slots=True)
class Code:
    """What became of a variant. `registers` per thread; `stack` bytes per thread; `shared` bytes per program.

    `spills`: instructions that use local memory. `matrix`: those of the tensor cores. `starts_next` and
    `waits`: the instructions of dependent launch; `wait_repeats` where a wait stands in a loop.
    """

    variant: Variant
    registers: int
    stack: int
    shared: int
    instructions: int
    spills: int
    matrix: int
    starts_next: int
    waits: int
    wait_repeats: bool
    accesses: tuple[Access, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A variant that Triton or ptxas does not compile, and what they say, in one line."""

    variant: Variant
    reason: str


def compile_all(variants: Iterable[Variant], *, workers: int = 1) -> Iterator[Code | Refusal]:
    """What becomes of each variant, in order. Nothing comes from Triton's cache of earlier runs."""
    with tempfile.TemporaryDirectory() as cache:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(cache,))
        with pool:
            yield from pool.map(_attempt, variants)


def _begin(cache: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = cache


def _attempt(variant: Variant) -> Code | Refusal:
    try:
        return compile_variant(variant)
    except Exception as error:  # of many kinds, by stage of the compiler and version of Triton
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return Refusal(variant, f"{type(cause).__name__}: {lines[-1] if lines else ''}")


def compile_variant(variant: Variant) -> Code:
    """Compiles, or takes from Triton's cache, and disassembles. Raises what Triton raises."""
    module, _, name = variant.kernel.partition(":")
    source = ASTSource(
        getattr(import_module(module), name),
        dict(variant.signature),
        dict(variant.constants),
        {path: [list(pair) for pair in pairs] for path, pairs in variant.attributes},
    )
    target = GPUTarget("cuda", variant.capability, WARP)
    compiled = triton.compile(source, target=target, options=dict(variant.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        listing = _run(knobs.nvidia.nvdisasm.path, "-g", "-c", file.name)
    return read(variant, compiled.asm["ptx"], usage, listing, compiled.metadata.shared)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def read(variant: Variant, ptx: str, usage: str, listing: str, shared: int) -> Code:
    """The facts in what the tools print. `shared`: bytes, as Triton asks for them at the launch."""
    found = _USAGE.search(usage)
    if found is None:
        raise ValueError(f"{variant.name}: no resource usage in {usage!r}")
    code = sass.instructions(listing)
    waits = [index for index, instruction in enumerate(code) if instruction.name == "ACQBULK"]
    names = pointers(code, pointer_offsets(variant, ptx))
    ends = sass.until(code)
    count = [instruction.name for instruction in code].count
    accesses = tuple(
        Access(
            _KINDS[instruction.name],
            instruction.bits,
            names[index],
            bool(waits) and index < waits[0],
            index,
            ends.get(index, index),
            instruction.line,
        )
        for index, instruction in enumerate(code)
        if instruction.name in _KINDS
    )
    return Code(
        variant,
        registers=int(found[1]),
        stack=int(found[2]) + int(found[4]),
        shared=shared,
        instructions=len(code),
        spills=count("LDL") + count("STL"),
        matrix=sum(count(name) for name in sass.MATRIX),
        starts_next=count("PREEXIT"),
        waits=len(waits),
        wait_repeats=any(sass.looped(code, index) for index in waits),
        accesses=accesses,
    )


def pointer_offsets(variant: Variant, ptx: str) -> dict[int, str]:
    """Pointer parameters by where they stand in constant bank 0."""
    sizes = [int(bits) // 8 for bits in _PARAMETER.findall(ptx.partition(".entry")[2].partition("{")[0])]
    kinds = dict(variant.signature)
    offsets, at = {}, _FIRST_PARAMETER[variant.capability // 10]
    # Behind its own parameters Triton adds pointers to scratch memory.
    for name, size in zip(variant.parameters, sizes, strict=False):
        at = -(-at // size) * size
        if kinds[name].startswith("*"):
            offsets[at] = name
        at += size
    return offsets
