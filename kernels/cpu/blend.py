"""The other half of attention: cached values, weighted and summed in registers."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.target import LANES

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)

LINE = 64  # bytes of a cache line; more on few CPUs, where every second request is then in vain


@intrinsic
def prefetch(typing_context, values, row, rows):
    """Ask for values[row : row + rows] ahead of its use; `values` (…, columns) contiguous."""

    def generate(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        array = context.make_array(signature.args[0])(context, builder, args[0])
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        base = builder.gep(builder.bitcast(array.data, pointer), [builder.mul(args[1], stride)])
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        size = builder.mul(args[2], stride)
        with cgutils.for_range_slice(builder, _I64(0), size, _I64(LINE), intp=_I64) as (offset, _):
            # to be read, into all caches, data
            builder.call(function, [builder.gep(base, [offset]), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(values, types.intp, types.intp), generate


@intrinsic(prefer_literal=True)
def blend(typing_context, values, index, count, weights, fades, state, head, heads):
    """state[h] = fades[h]·state[h] + Σ_{i < count} weights[h, i]·values[index[i]], head <= h < head + heads.

    values as `gemv.matrix`; index (BLOCK,) int64; weights (H, BLOCK), fades (H,), state (H, halves, at least
    the padded length) fp32; heads is literal. Columns beyond the last are read from what follows in `values`
    only under a mask.
    """
    if not isinstance(heads, types.IntegerLiteral):
        return None
    many = heads.literal_value
    halves = 2 if values.dtype == types.uint32 else 1

    def generate(context, builder, signature, args):
        bytes_ = ir.IntType(8).as_pointer()
        arrays = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 3, 4, 5)]
        value_array, index_array, weight_array, fade_array, state_array = arrays
        v_base, w_base, s_base = (
            builder.bitcast(array.data, bytes_) for array in (value_array, weight_array, state_array)
        )
        v_stride = cgutils.unpack_tuple(builder, value_array.strides)[0]
        w_stride = cgutils.unpack_tuple(builder, weight_array.strides)[0]
        s_strides = cgutils.unpack_tuple(builder, state_array.strides)
        of_head = [builder.add(args[6], _I64(j)) for j in range(many)]
        zero_int = ir.Constant(_INTS, None)
        spread = ir.Constant(_INTS, [0] * LANES)
        lanes = ir.Constant(_INTS, list(range(LANES)))

        def call(name, result, arguments):
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, arguments)

        def everywhere(scalar, kind):
            """The scalar in all lanes."""
            undefined = ir.Constant(kind, ir.Undefined)
            return builder.shuffle_vector(
                builder.insert_element(undefined, scalar, _I32(0)), undefined, spread
            )

        words = cgutils.unpack_tuple(builder, value_array.shape)[1]
        with cgutils.for_range_slice(builder, _I64(0), words, _I64(LANES), intp=_I64) as (column, _):
            offset = builder.shl(column, _I64(2))
            left = everywhere(builder.trunc(builder.sub(words, column), _I32), _INTS)
            mask = builder.icmp_signed("<", lanes, left)
            places, sums = [], []
            for j in range(many):
                for half in range(halves):
                    at = builder.add(
                        builder.mul(of_head[j], s_strides[0]), builder.mul(_I64(half), s_strides[1])
                    )
                    pointer = builder.gep(s_base, [builder.add(at, offset)])
                    pointer = builder.bitcast(pointer, _FLOATS.as_pointer())
                    fade = everywhere(builder.load(builder.gep(fade_array.data, [of_head[j]])), _FLOATS)
                    faded = builder.fmul(builder.load(pointer, align=4), fade)
                    places.append(pointer)
                    sums.append(cgutils.alloca_once(builder, _FLOATS))
                    builder.store(faded, sums[-1])
            with cgutils.for_range(builder, args[2], intp=_I64) as loop:
                row = builder.load(builder.gep(index_array.data, [loop.index]))
                pointer = builder.gep(v_base, [builder.add(builder.mul(row, v_stride), offset)])
                pointer = builder.bitcast(pointer, _INTS.as_pointer())
                loaded = call(f"llvm.masked.load.v{LANES}i32.p0", _INTS, [pointer, _I32(4), mask, zero_int])
                parts = [loaded]
                if halves == 2:
                    parts = [
                        builder.shl(loaded, ir.Constant(_INTS, [16] * LANES)),
                        builder.and_(loaded, ir.Constant(_INTS, [-65536] * LANES)),
                    ]
                parts = [builder.bitcast(part, _FLOATS) for part in parts]
                for j in range(many):
                    at = builder.add(builder.mul(of_head[j], w_stride), builder.shl(loop.index, _I64(2)))
                    scalar = builder.load(
                        builder.bitcast(builder.gep(w_base, [at]), _F32.as_pointer()), align=4
                    )
                    weight = everywhere(scalar, _FLOATS)
                    for half, part in enumerate(parts):
                        total = sums[j * halves + half]
                        added = call(
                            f"llvm.fmuladd.v{LANES}f32", _FLOATS, [weight, part, builder.load(total)]
                        )
                        builder.store(added, total)
            for place, total in zip(places, sums, strict=True):
                builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    signature = types.void(values, index, types.intp, weights, fades, state, types.intp, heads)
    return signature, generate
