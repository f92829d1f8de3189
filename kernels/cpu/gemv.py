"""y = W·x for a few x at once: every weight is read once, widened in registers, summed in fp32.

Four rows of W by up to `VECTORS` vectors x share a tile of accumulators. bf16 weights are read as pairs in
one uint32, low half = even column; shifted up it is the even weight as fp32, masked it is the odd one, so x
is laid out with even and odd columns apart. CPUs that multiply pairs of bf16 into fp32 (AVX512_BF16) take the
pairs as they are, and x rounded to bf16, as torch does: half the instructions, which is what eight rows of a
batch are bound by. A sum is made in the same order whatever tile it falls into: a row's result does not
depend on its neighbours in the batch.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from kernels.cpu.target import BF16_DOT, LANES, BFloat, compiled, fetch_ahead, mean_square_of, narrow, widen

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
# Rows ahead of those being multiplied that are asked for. A row of 4 KB is a page, where the CPU's own
# prefetching begins anew: one thread of an EPYC reads 17 GB/s without this, 22 to 24 with it (1B's head).
AHEAD = 8
# Vectors that share a tile of four rows. Sixteen registers (no AVX-512) hold the sums of two vectors and what
# meets them. With the sums of four in memory, one thread of a Zen 2 takes 9.7 GB/s of bf16 out of its cache
# for four vectors and not 13.4, 5.0 and not 7.1 for eight, where torch's fp32 product would take 8.4.
VECTORS = 4 if LANES == 16 else 2
LINE = 16  # words of a cache line
_PAIRS = ir.VectorType(BFloat(), 2 * LANES)


def stored(tensor: Tensor) -> np.ndarray:
    """A tensor's memory as numpy, not copied: float32, or uint16 where it is bf16."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def matrix(weight: Tensor) -> np.ndarray:
    """weight (M, C) as `dot_rows` takes it: float32 (M, C), or uint32 pairs (M, ceil(C/2)) of bf16.

    Not copied unless C is odd or the memory is not contiguous or not aligned to pairs.
    """
    weight = weight.detach()
    if weight.dtype is torch.bfloat16 and weight.shape[1] % 2:
        weight = torch.nn.functional.pad(weight, (0, 1))
    weight = weight.contiguous()
    if weight.data_ptr() % 4:
        weight = weight.clone()
    return weight.view(torch.int32).numpy().view(np.uint32) if weight.element_size() == 2 else weight.numpy()


def room_for(w):
    """Zeros for x that W of numba's type `w` is to meet, as a function to compile.

    (vectors, halves, padded length), float32 or, rounded, uint16: column c of x stands at
    [:, c % halves, c // halves].
    """
    pairs = w.dtype == types.uint32
    halves = 2 if pairs and not BF16_DOT else 1
    width = 2 if pairs and BF16_DOT else 1
    kind = np.uint16 if pairs and BF16_DOT else np.float32

    def spread(w, vectors):
        return np.zeros((vectors, halves, width * -(-w.shape[1] // LANES) * LANES), kind)

    return spread


@compiled
def place(x, laid):
    """Lay x (N, C), bf16 bits or float32, out into `laid`."""
    shift = laid.shape[1] - 1
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            laid[n, c & shift, c >> shift] = narrow(widen(x[n, c]), laid)


@compiled
def place_normed(x, gain, eps, laid):
    """Lay gain · x / sqrt(mean(x²) + eps) out into `laid`. x (N, E) bf16 bits or float32, gain (E,) fp32."""
    shift = laid.shape[1] - 1
    for n in range(x.shape[0]):
        scale = np.float32(1) / np.sqrt(mean_square_of(x[n]) + eps)
        for c in range(x.shape[1]):
            laid[n, c & shift, c >> shift] = narrow(widen(x[n, c]) * scale * gain[c], laid)


def _sums(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """The sum of each vector's lanes, side by side in one vector; LANES vectors or a smaller power of two.

    Neighbouring lanes are added first, then neighbouring sums: the same order for one vector as for sixteen,
    which take 15 additions together and not 16 · 4.
    """

    def neighbours(a, b, lanes):
        even, odd = (ir.Constant(ir.VectorType(_I32, lanes), list(range(k, 2 * lanes, 2))) for k in (0, 1))
        return builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))

    wanted = len(vectors)
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [neighbours(a, b, a.type.count) for a, b in pairs]
    (total,) = vectors
    while total.type.count > wanted:
        total = neighbours(total, ir.Constant(total.type, ir.Undefined), total.type.count // 2)
    return total


@intrinsic(prefer_literal=True)
def tile(typing_context, w, index, row, laid, vector, y, column, rows, vectors, ahead):
    """y[vector + j, column + i] = w[index[row + i]] · laid[vector + j] for i < rows, j < vectors.

    `rows`, `vectors`, `ahead` are literal; `index` may be None: rows that follow each other. `ahead`: how
    many rows further the next ones are asked for, 0 for not at all.
    """
    if not all(isinstance(constant, types.IntegerLiteral) for constant in (rows, vectors, ahead)):
        return None
    wide, many, further = rows.literal_value, vectors.literal_value, ahead.literal_value
    rounded = laid.dtype == types.uint16
    halves = 2 if w.dtype == types.uint32 and not rounded else 1

    def generate(context, builder, signature, args):
        def array(index):
            made = context.make_array(signature.args[index])(context, builder, args[index])
            strides = cgutils.unpack_tuple(builder, made.strides)
            return builder.bitcast(made.data, ir.IntType(8).as_pointer()), strides, made

        def at(base, *terms):
            """base + Σ index · stride, in bytes."""
            for index, stride in terms:
                base = builder.gep(base, [builder.mul(index, stride)])
            return base

        def load(pointer, kind):
            return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)

        def call(name, result, arguments, **options):
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, arguments, **options)

        w_base, w_strides, w_array = array(0)
        x_base, x_strides, _ = array(3)
        y_base, y_strides, _ = array(5)
        numbers = [builder.add(args[2], _I64(i)) for i in range(wide)]
        if not isinstance(index, types.NoneType):
            _, _, found = array(1)
            numbers = [builder.load(builder.gep(found.data, [number])) for number in numbers]
        at_row = [at(w_base, (number, w_strides[0])) for number in numbers]
        at_vector = [at(x_base, (builder.add(args[4], _I64(j)), x_strides[0])) for j in range(many)]
        zero = ir.Constant(_FLOATS, None)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(many)] for _ in range(wide)]
        high = ir.Constant(_INTS, [-65536] * LANES)  # 0xFFFF0000
        up = ir.Constant(_INTS, [16] * LANES)

        def step(offset, mask=None, fetch=False):
            """Add LANES words of every row, those under `mask` where there is one."""
            kind = _PAIRS if rounded else _FLOATS
            apart = [builder.add(offset, builder.mul(_I64(half), x_strides[1])) for half in range(halves)]
            xs = [[load(builder.gep(base, [part]), kind) for part in apart] for base in at_vector]
            for i in range(wide):
                pointer = builder.gep(at_row[i], [offset])
                if mask is None:
                    if fetch:
                        fetch_ahead(builder, builder.gep(pointer, [builder.mul(w_strides[0], _I64(further))]))
                    words = load(pointer, _INTS)
                else:
                    typed = builder.bitcast(pointer, _INTS.as_pointer())
                    empty = ir.Constant(_INTS, None)
                    words = call(f"llvm.masked.load.v{LANES}i32.p0", _INTS, [typed, _I32(4), mask, empty])
                parts = [builder.shl(words, up), builder.and_(words, high)] if halves == 2 else [words]
                parts = [builder.bitcast(part, kind) for part in parts]
                for j in range(many):
                    total = builder.load(sums[i][j])
                    for part, x in zip(parts, xs[j], strict=True):
                        if rounded:
                            total = call("llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, [total, part, x])
                        else:
                            total = call(f"llvm.fmuladd.v{LANES}f32", _FLOATS, [part, x, total])
                    builder.store(total, sums[i][j])

        length = cgutils.unpack_tuple(builder, w_array.shape)[1]
        lines, full = builder.and_(length, _I64(-LINE)), builder.and_(length, _I64(-LANES))
        with cgutils.for_range_slice(builder, _I64(0), lines, _I64(LINE), intp=_I64) as (word, _):
            for part in range(0, LINE, LANES):
                step(builder.shl(builder.add(word, _I64(part)), _I64(2)), fetch=further > 0 and part == 0)
        with cgutils.for_range_slice(builder, lines, full, _I64(LANES), intp=_I64) as (word, _):
            step(builder.shl(word, _I64(2)))
        rest = builder.sub(length, full)
        with builder.if_then(builder.icmp_signed(">", rest, _I64(0)), likely=False):
            # the words beyond a row's end belong to the next row, or to nobody
            undefined = ir.Constant(_INTS, ir.Undefined)
            first = builder.insert_element(undefined, builder.trunc(rest, _I32), _I32(0))
            limit = builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))
            lanes = ir.Constant(_INTS, list(range(LANES)))
            step(builder.shl(full, _I64(2)), builder.icmp_signed("<", lanes, limit))
        places = [(i, j) for j in range(many) for i in range(wide)]
        for start in range(0, len(places), LANES):
            some = places[start : start + LANES]
            totals = _sums(builder, [builder.load(sums[i][j]) for i, j in some])
            for lane, (i, j) in enumerate(some):
                vector_at = (builder.add(args[4], _I64(j)), y_strides[0])
                pointer = at(y_base, vector_at, (builder.add(args[6], _I64(i)), y_strides[1]))
                total = builder.extract_element(totals, _I32(lane))
                builder.store(total, builder.bitcast(pointer, _F32.as_pointer()))
        return context.get_dummy_value()

    intp = types.intp
    return types.void(w, index, intp, laid, intp, y, intp, rows, vectors, ahead), generate


@compiled
def dot_rows(w, first, count, laid, y, column):
    """y[n, column + i] = w[first + i] · x[n] for i < count and all x in `laid`. y (N, ...) float32.

    Loop order: a few rows of W meet all x while they are in the nearest cache; the first x they meet brings
    the next rows nearer.
    """
    vectors = laid.shape[0]
    i = 0
    while i < count:
        if count - i >= 4:
            if vectors >= VECTORS:
                tile(w, None, first + i, laid, 0, y, column + i, 4, VECTORS, AHEAD)
                n = VECTORS
            elif vectors >= 2:
                tile(w, None, first + i, laid, 0, y, column + i, 4, 2, AHEAD)
                n = 2
            else:
                tile(w, None, first + i, laid, 0, y, column + i, 4, 1, AHEAD)
                n = 1
            while vectors - n >= VECTORS:
                tile(w, None, first + i, laid, n, y, column + i, 4, VECTORS, 0)
                n += VECTORS
            if vectors - n >= 2:
                tile(w, None, first + i, laid, n, y, column + i, 4, 2, 0)
                n += 2
            if vectors - n >= 1:
                tile(w, None, first + i, laid, n, y, column + i, 4, 1, 0)
            i += 4
        else:
            for n in range(vectors):
                tile(w, None, first + i, laid, n, y, column + i, 1, 1, 0)
            i += 1
