"""What numba is asked for, and the conversions between stored and computed numbers.

Owns the compiler settings of every stage; knows no stage. Everything computes in fp32: bf16 is held as the
upper half of an fp32 (uint16), widened by a shift, and rounded to nearest even on the way out.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# fp32 numbers per vector register, from the CPU that numba compiles for. LLVM splits a vector that is too
# wide for the CPU, so this is about speed only: 16 with AVX-512, else 8 (AVX2; two of NEON's registers).
_HOST = llvmlite.binding.get_host_cpu_features()
LANES = 16 if _HOST.get("avx512f", False) else 8
# Whether the CPU multiplies pairs of bf16 (vdpbf16ps): Zen 4, Cooper Lake, Sapphire Rapids and later.
BF16_DOT = LANES == 16 and _HOST.get("avx512bf16", False)

# Sums may be reordered and contracted, which vectorises them; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def _sources() -> tuple[str, int]:
    """A stamp of all files of this package."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(text).hexdigest(), len(text)


_STAMP = _sources()


def compiled(function: Callable[..., Any]) -> Any:
    """`function` compiled at its first call, without the GIL, kept on disk beside the source.

    numba looks for changes only in the file of the function itself, and would keep a stage that calls an
    edited `gemv.py`; the stamp of the whole package stands in for the file's.
    """
    dispatcher = njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = _STAMP
    return dispatcher


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
def _power_of_two(typing_context, exponent):
    """2 to a float32 that holds a whole number from -126 to 127."""

    def generate(context, builder, signature, args):
        i32 = ir.IntType(32)
        biased = builder.add(builder.fptosi(args[0], i32), i32(127))
        return builder.bitcast(builder.shl(biased, i32(23)), ir.FloatType())

    return types.float32(types.float32), generate


@compiled
def exp_of_negative(x):
    """exp(x) for x <= 0 to 3e-7 relative, 1e-38 below -87: plain arithmetic, so that loops of it vectorise.

    x = n·ln 2 + r with |r| <= 0.35; Taylor's series of exp(r) to r⁷/7! is off by 5e-9 there.
    """
    x = max(x, np.float32(-87.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(0.693359375 - 0.6931471805599453)
    series = np.float32(1 / 5040)
    series = series * r + np.float32(1 / 720)
    series = series * r + np.float32(1 / 120)
    series = series * r + np.float32(1 / 24)
    series = series * r + np.float32(1 / 6)
    series = series * r + np.float32(0.5)
    series = series * r + np.float32(1)
    series = series * r + np.float32(1)
    return series * _power_of_two(n)
