"""Panels of packed weights times a few vectors in fixed point, as instructions: what `packed.dot_rows` runs.

Two panels share what is loaded of a vector: out of the nearest cache int8 then goes at 92 GB/s a thread and
not at 80, and from memory, on two threads, both int8 and int4 5 % faster. int4 has to multiply 16 times for
288 bytes, which ends at 47 GB/s.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.target import LANES, VNNI, call, everywhere, fetch_ahead, multiply_pairs
from kernels.quantize import PANEL

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, LANES) for kind in (_F32, _I32, _I16))
_REGISTERS = PANEL // LANES  # that hold one word of a panel's rows

# Bytes ahead that are asked for of int4, which takes long enough over a line for the CPU's own prefetching to
# fall behind: one thread of an EPYC reads 15 GB/s without and 20 with 16 KB; two threads 29.8 with 16 KB and
# 31.8 with 1.5 KB. int8 only loses (32.1 without, 30.0 with).
AHEAD = 1536


@intrinsic(prefer_literal=True)
def panel(typing_context, words, scales, number, digits, offsets, fine, vector, y, bits, vectors, panels):
    """y[j] = the rows of `panels` panels from `number` on · x[vector + j] for j < vectors.

    `bits`, `vectors`, `panels` are literal; digits, offsets, fine as in `Fixed`; y (vectors or more, panels
    or more times PANEL) float32.
    """
    if not all(isinstance(constant, types.IntegerLiteral) for constant in (bits, vectors, panels)):
        return None
    many, halves = vectors.literal_value, 8 // bits.literal_value
    registers = panels.literal_value * _REGISTERS

    def generate(context, builder, signature, args):
        bytes_ = ir.IntType(8).as_pointer()

        def array(index):
            made = context.make_array(signature.args[index])(context, builder, args[index])
            strides = cgutils.unpack_tuple(builder, made.strides)
            return builder.bitcast(made.data, bytes_), strides, cgutils.unpack_tuple(builder, made.shape)

        def load(base, offset, kind):
            pointer = builder.gep(base, [offset])
            return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=min(4, kind_bytes(kind)))

        def kind_bytes(kind):
            return 2 if kind is _SHORTS else 4

        w_base, w_strides, w_shape = array(0)
        s_base, s_strides, s_shape = array(1)
        w_bases, s_bases = (
            [
                builder.gep(base, [builder.mul(builder.add(args[2], _I64(p)), strides[0])])
                for p in range(panels.literal_value)
            ]
            for base, strides in ((w_base, w_strides), (s_base, s_strides))
        )
        (d_base, d_strides, _), (o_base, o_strides, _), (f_base, f_strides, _), (y_base, y_strides, _) = (
            array(index) for index in (3, 4, 5, 7)
        )
        places = [builder.add(args[6], _I64(j)) for j in range(many)]
        at_digits = [builder.gep(d_base, [builder.mul(place, d_strides[0])]) for place in places]
        at_offsets = [builder.gep(o_base, [builder.mul(place, o_strides[0])]) for place in places]
        at_fine = [builder.gep(f_base, [builder.mul(place, f_strides[0])]) for place in places]

        def variables(kind):
            return [[cgutils.alloca_once(builder, kind) for _ in range(many)] for _ in range(registers)]

        totals = variables(_FLOATS)
        # Of int4 the lower and the upper halves of bytes are summed apart, the upper ones 16 times too large:
        # no shift of a line, and chains of dependent products half as long.
        sums_of = [(variables(_INTS), variables(_INTS)) for _ in range(halves)]
        for r in range(registers):
            for j in range(many):
                builder.store(ir.Constant(_FLOATS, None), totals[r][j])

        def add(r, four, quad, half):
            """Let four columns of every row, one in a byte, meet all x. `quad`: number of the four."""
            low, high = sums_of[half]
            even, odd = None, None
            if not VNNI:
                mask, by = ir.Constant(_INTS, [0x00FF00FF] * LANES), ir.Constant(_INTS, [8] * LANES)
                even, odd = builder.and_(four, mask), builder.and_(builder.lshr(four, by), mask)
            for j in range(many):
                if VNNI:
                    offset = builder.shl(quad, _I64(2))
                    first = load(at_digits[j], offset, _I32)
                    second = load(at_digits[j], builder.add(offset, d_strides[1]), _I32)
                    for sums, digit in ((high[r][j], first), (low[r][j], second)):
                        terms = [builder.load(sums), four, everywhere(builder, digit)]
                        builder.store(call(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, terms), sums)
                else:
                    offset = builder.shl(quad, _I64(3))
                    for part, step in ((even, 0), (odd, 4)):
                        pair = everywhere(builder, load(at_digits[j], builder.add(offset, _I64(step)), _I32))
                        product = multiply_pairs(builder, part, pair)
                        builder.store(builder.add(builder.load(low[r][j]), product), low[r][j])

        def total_of(r, j, half):
            """Both digits' sums as one."""
            low, high = (builder.load(sums[r][j]) for sums in sums_of[half])
            if not VNNI:
                return low
            return builder.add(low, builder.shl(high, ir.Constant(_INTS, [8] * LANES)))

        per_group = builder.sdiv(w_shape[1], s_shape[1])
        nibbles = ir.Constant(_INTS, [0x0F0F0F0F] * LANES)
        with cgutils.for_range(builder, s_shape[1], intp=_I64) as group:
            at = builder.shl(group.index, _I64(2))
            if halves == 2:
                line = builder.mul(group.index, _I64(2 * PANEL))
                for base in s_bases:
                    fetch_ahead(builder, builder.gep(base, [builder.add(line, _I64(AHEAD // 8))]))
            for j in range(many):
                offset = everywhere(builder, load(at_offsets[j], at, _I32))
                for r in range(registers):
                    for half, (low, high) in enumerate(sums_of):
                        builder.store(ir.Constant(_INTS, None) if half else offset, low[r][j])
                        builder.store(ir.Constant(_INTS, None), high[r][j])
            first = builder.mul(group.index, per_group)
            with cgutils.for_range(builder, per_group, intp=_I64) as loop:
                word = builder.add(first, loop.index)
                for r in range(registers):
                    base, part = w_bases[r // _REGISTERS], r % _REGISTERS
                    line = builder.add(builder.mul(word, _I64(4 * PANEL)), _I64(4 * LANES * part))
                    if halves == 2:
                        fetch_ahead(builder, builder.gep(base, [builder.add(line, _I64(AHEAD))]))
                    held = load(base, line, _INTS)
                    if halves == 1:
                        add(r, held, word, 0)
                        continue
                    quad = builder.shl(word, _I64(1))
                    add(r, builder.and_(held, nibbles), quad, 0)
                    upper = builder.and_(held, builder.not_(nibbles))
                    add(r, upper, builder.add(quad, _I64(1)), 1)
            for r in range(registers):
                base, part = s_bases[r // _REGISTERS], r % _REGISTERS
                line = builder.add(builder.mul(group.index, _I64(2 * PANEL)), _I64(2 * LANES * part))
                scale = builder.zext(load(base, line, _SHORTS), _INTS)
                scale = builder.bitcast(builder.shl(scale, ir.Constant(_INTS, [16] * LANES)), _FLOATS)
                for j in range(many):
                    total = total_of(r, j, 0)
                    if halves == 2:
                        sixteenth = builder.ashr(total_of(r, j, 1), ir.Constant(_INTS, [4] * LANES))
                        total = builder.add(total, sixteenth)
                    both = builder.fmul(scale, everywhere(builder, load(at_fine[j], at, _F32)))
                    terms = [builder.sitofp(total, _FLOATS), both, builder.load(totals[r][j])]
                    builder.store(call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, terms), totals[r][j])
        for r in range(registers):
            for j in range(many):
                offset = builder.add(builder.mul(_I64(j), y_strides[0]), _I64(4 * LANES * r))
                pointer = builder.bitcast(builder.gep(y_base, [offset]), _FLOATS.as_pointer())
                builder.store(builder.load(totals[r][j]), pointer, align=4)
        return context.get_dummy_value()

    intp = types.intp
    arrays = (words, scales, intp, digits, offsets, fine, intp, y, bits, vectors, panels)
    return types.void(*arrays), generate
