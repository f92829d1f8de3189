"""What numba is asked for, and the conversions between stored and computed numbers.

Owns the compiler settings of every stage; knows no stage. Everything computes in fp32: bf16 is held as the
upper half of an fp32 (uint16), widened by a shift, and rounded to nearest even on the way out.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _features() -> set[str]:
    """What numba compiles for: this CPU, or what NUMBA_CPU_FEATURES says."""
    asked = numba.config.CPU_FEATURES
    if asked is None:
        return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
    return {name[1:] for name in asked.split(",") if name.startswith("+")}


# fp32 numbers per vector: 16 with AVX-512, else 8 (AVX2; two registers of NEON or SSE). LLVM splits what is
# too wide for the CPU, so this is about speed only.
LANES = 16 if "avx512f" in _features() else 8
# Whether the CPU multiplies pairs of bf16 (vdpbf16ps): Zen 4, Cooper Lake, Sapphire Rapids and later.
BF16_DOT = {"avx512f", "avx512bf16"} <= _features()
# Whether it multiplies bytes, unsigned by signed, four to an int32 (vpdpbusd): Ice Lake, Zen 4 and later.
VNNI = {"avx512f", "avx512vnni"} <= _features()
_PAIRS_OF = {8: "llvm.x86.avx2.pmadd.wd"} if "avx2" in _features() else {}
if "avx512bw" in _features():
    _PAIRS_OF[16] = "llvm.x86.avx512.pmaddw.d.512"


def _sources() -> tuple[str, int]:
    """A stamp of all files of this package, and of the packing."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.parent / "quantize.py"]
    text = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(text).hexdigest(), len(text)


_STAMP = _sources()


def compiled(function: Callable[..., Any], *, reorder: bool = False) -> Any:
    """`function` compiled at its first call, without the GIL, kept on disk beside the source.

    `reorder`: its sum may be added in any order, which vectorises it. Only for functions of one reduction:
    elsewhere the compiler makes several versions of a loop, and which one runs, and so the rounding, would
    depend on where arrays lie and how many rows a batch has.

    numba looks for changes only in the file of the function itself, and would keep a stage that calls an
    edited `gemv.py`; the stamp of the whole package stands in for the file's.
    """
    fastmath = {"reassoc", "nsz"} if reorder else False
    dispatcher = njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no folder that may be written to, here or in the home: compiled every time
        return dispatcher
    kept: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = _STAMP
    return dispatcher


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """A call of one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def fetch_ahead(builder: ir.IRBuilder, pointer: ir.Value) -> None:
    """Ask for the line at `pointer`, wherever that is, to come into the second-level cache."""
    i32 = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, i32(0), i32(2), i32(1)])  # to be read, second level, data


def everywhere(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """The scalar in all LANES."""
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def multiply_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """a.low · b.low + a.high · b.high of the int16 halves of LANES int32, as int32."""
    name = _PAIRS_OF.get(LANES)
    if name:
        shorts = ir.VectorType(ir.IntType(16), 2 * LANES)
        return call(builder, name, a.type, [builder.bitcast(a, shorts), builder.bitcast(b, shorts)])
    by = ir.Constant(a.type, [16] * LANES)
    low, high = (
        builder.mul(*(builder.ashr(part(x), by) for x in (a, b)))
        for part in (lambda x: builder.shl(x, by), lambda x: x)
    )
    return builder.add(low, high)


class BFloat(ir.Type):
    """LLVM's `bfloat`, which llvmlite has no name for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


@intrinsic
def widen(typing_context, stored):
    """uint16 holding a bf16, or float32 -> float32."""
    if stored == types.float32:
        return types.float32(stored), lambda context, builder, signature, args: args[0]
    if stored != types.uint16:
        return None

    def generate(context, builder, signature, args):
        wide = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(stored), generate


@intrinsic
def narrow(typing_context, value, array):
    """A float32 as an element of `array`: itself, or rounded to the nearest bf16, ties to even."""
    if value != types.float32 or array.dtype not in (types.float32, types.uint16):
        return None
    if array.dtype == types.float32:
        return types.float32(value, array), lambda context, builder, signature, args: args[0]

    def generate(context, builder, signature, args):
        i32 = ir.IntType(32)
        bits = builder.bitcast(args[0], i32)
        odd = builder.and_(builder.lshr(bits, i32(16)), i32(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, i32(0x7FFF))), i32(16))
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.trunc(builder.select(nan, i32(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(value, array), generate


@intrinsic
def nearest_whole(typing_context, x):
    """A float32 rounded to a whole number. numba's own `floor` is a call, which ends vectorisation."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32"), args)

    return types.float32(types.float32), generate


@intrinsic
def _power_of_two(typing_context, exponent):
    """2 to a float32 that holds a whole number from -126 to 127."""

    def generate(context, builder, signature, args):
        i32 = ir.IntType(32)
        biased = builder.add(builder.fptosi(args[0], i32), i32(127))
        return builder.bitcast(builder.shl(biased, i32(23)), ir.FloatType())

    return types.float32(types.float32), generate


@compiled
def exp_of_negative(x):
    """exp(x) for x <= 0 to 3e-7 relative, 0 below -60: plain arithmetic, so that loops of it vectorise.

    A weight of 1e-26 of the largest changes no fp32 sum, and far smaller ones would make subnormal products.
    x = n·ln 2 + r with |r| <= 0.35; Taylor's series of exp(r) to r⁷/7! is off by 5e-9 there.
    """
    lowest = np.float32(-60)
    x, seen = max(x, lowest), np.float32(x > lowest)
    n = nearest_whole(x * np.float32(1.4426950408889634))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(0.693359375 - 0.6931471805599453)
    series = np.float32(1 / 5040)
    series = series * r + np.float32(1 / 720)
    series = series * r + np.float32(1 / 120)
    series = series * r + np.float32(1 / 24)
    series = series * r + np.float32(1 / 6)
    series = series * r + np.float32(0.5)
    series = series * r + np.float32(1)
    series = series * r + np.float32(1)
    return series * _power_of_two(n) * seen


@intrinsic(prefer_literal=True)
def largest_of(typing_context, row, count):
    """The largest of the first `count` float32 of a row, contiguous; a literal multiple of LANES."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, args):
        kind = ir.VectorType(ir.FloatType(), LANES)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        fold = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind, kind]), f"llvm.maxnum.v{LANES}f32"
        )
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.FloatType(), [kind]), f"llvm.vector.reduce.fmax.v{LANES}f32"
        )
        parts = []
        for start in range(0, count.literal_value, LANES):
            pointer = builder.gep(data, [ir.IntType(64)(start)])
            parts.append(builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4))
        largest = parts[0]
        for part in parts[1:]:
            largest = builder.call(fold, [largest, part])
        return builder.call(reduce, [largest])

    return types.float32(row, count), generate


def _sum_of(row):
    total = np.float32(0)
    for value in row:
        total += value
    return total


def _mean_square_of(row):
    total = np.float32(0)
    for stored in row:
        total += widen(stored) * widen(stored)
    return total / np.float32(row.size)


# (n,) float32 -> float32
sum_of = compiled(_sum_of, reorder=True)
# (n,) float32 or bf16 bits -> float32
mean_square_of = compiled(_mean_square_of, reorder=True)
