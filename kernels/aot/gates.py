"""What the machine code of a kernel must hold. Each gate gives one line for each thing that is wrong.

`frozen`: parameters that no kernel ever writes while a model runs. `streams`: what is read as a whole,
matrices and the cache, each by the parameters that point to it. Limits: CUDA Programming Guide,
"Technical Specifications per Compute Capability".
"""

from collections.abc import Collection, Set
from dataclasses import dataclass

from kernels.aot.compile import Code
from kernels.aot.record import WARP

WIDE = 128  # bits: the widest load of a thread


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """`shared`: bytes of all programs together; one program may have 1 KiB less, which each one pays."""

    shared: int
    threads: int
    programs: int
    registers: int = 65536


MULTIPROCESSORS = {
    80: Multiprocessor(164 << 10, 2048, 32),
    86: Multiprocessor(100 << 10, 1536, 16),
    89: Multiprocessor(100 << 10, 1536, 24),
    90: Multiprocessor(228 << 10, 2048, 32),
}
_RESERVED = 1024  # bytes of shared memory that every program takes for the system


def residents(code: Code) -> int:
    """Programs that one SM runs at a time; registers are given out by 256 a warp."""
    sm = MULTIPROCESSORS[code.variant.capability]
    warps = code.variant.warps
    registers = -(-code.registers * WARP // 256) * 256 * warps
    return min(
        sm.registers // registers,
        sm.shared // (code.shared + _RESERVED),
        sm.threads // (warps * WARP),
        sm.programs,
    )


def in_flight(code: Code, names: Set[str]) -> int:
    """Bytes that one SM may have asked for at once through `names`, with as many programs as it holds."""
    loads = [each for each in code.accesses if each.kind == "load" and each.pointers & names]
    bits = (sum(each.bits for each in loads if each.begin <= at.begin < each.end) for at in loads)
    return max(bits, default=0) // 8 * WARP * code.variant.warps * residents(code)


def ahead(code: Code, names: Set[str]) -> int:
    """Bytes that one thread loads through `names` before it waits for the kernel that came first."""
    loads = (access for access in code.accesses if access.before_wait and access.kind == "load")
    return sum(load.bits for load in loads if load.pointers & names) // 8


def no_stack(code: Code) -> list[str]:
    """Every value of a thread lives in a register."""
    found = [f"{code.stack} bytes of stack"] if code.stack else []
    return found + ([f"{code.spills} instructions use local memory"] if code.spills else [])


def fits(code: Code) -> list[str]:
    """At least one program fits on an SM."""
    if residents(code):
        return []
    return [f"does not fit on an SM: {code.shared} bytes of shared memory, {code.registers} registers"]


def wide_loads(code: Code, streams: Collection[Set[str]]) -> list[str]:
    """Every load of a stream moves 128 bits a thread, and there is one of each."""
    names = frozenset[str]().union(*streams)
    loads = [access for access in code.accesses if access.kind == "load" and access.pointers & names]
    found = {
        f"{load.line}: loads {_either(load.pointers)} by {load.bits} bits"
        for load in loads
        if load.bits != WIDE
    }
    loaded = frozenset[str]().union(*(load.pointers for load in loads))
    missing = sorted(_either(stream) for stream in streams if not stream & loaded)
    return [*sorted(found), *(f"no load of {name} found" for name in missing)]


def dependent(code: Code, frozen: Set[str], streams: Collection[Set[str]]) -> list[str]:
    """Dependent launch: the next kernel may start, matrices are on their way, then it waits, once.

    Before the wait nothing is touched but what is frozen. Without dependent launch there is none of it.
    """
    if not code.variant.dependent:
        both = code.starts_next + code.waits
        return [f"{both} instructions of dependent launch, but it is not launched so"] if both else []
    found = [] if code.starts_next else ["never lets the next kernel start"]
    if code.waits != 1 or code.wait_repeats:
        found.append(f"waits {code.waits} times" + " and in a loop" * code.wait_repeats + ", not once")
    early = [access for access in code.accesses if access.before_wait]
    for access in early:
        if not access.pointers or not access.pointers <= frozen or access.kind != "load":
            name = _either(access.pointers) or "an unknown address"
            found.append(f"{access.line}: {access.kind} of {name} before the wait")
    loaded = frozenset[str]().union(*(access.pointers for access in early if access.bits == WIDE))
    late = sorted(_either(stream) for stream in streams if stream <= frozen and not stream & loaded)
    return found + [f"no 128-bit load of {name} before the wait" for name in late]


def _either(names: Set[str]) -> str:
    return " or ".join(sorted(names))


def registers(code: Code, ceiling: int) -> list[str]:
    """No more registers a thread than `ceiling`."""
    return [f"{code.registers} registers, at most {ceiling}"] if code.registers > ceiling else []
