"""All stages of all layers in one call, for few new tokens.

Between stages the Python interpreter, the library's tensors and a helper's sleep cost 130 to 190 µs a stage
once the weights of the last one have swept the caches (1B on 2 cores of an EPYC; 15 µs where nothing was
swept), four times a layer. In here the next stage begins when the last chunk of the one before is done.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from kernels.cpu.attention import attention
from kernels.cpu.attention_input import attention_input
from kernels.cpu.attention_output import ROWS, attention_output
from kernels.cpu.crew import is_over
from kernels.cpu.mlp import mlp
from kernels.cpu.packed import Int4, Int8
from kernels.cpu.target import compiled

PHASES = 6  # of a layer: one of attention_input, two of attention, one of attention_output, two of mlp

Matrix = np.ndarray | Int8 | Int4


class Layer(NamedTuple):
    """A layer's matrices as `product` takes them, its vectors in fp32, empty where absent."""

    attention_norm: np.ndarray
    qkv: Matrix
    qkv_bias: np.ndarray
    q_norm: np.ndarray
    k_norm: np.ndarray
    output: Matrix
    output_bias: np.ndarray
    mlp_norm: np.ndarray
    gate_up: Matrix
    gate_up_bias: np.ndarray
    down: Matrix
    down_bias: np.ndarray


def addresses(layer: Layer) -> list[int]:
    """Where the arrays of a layer begin: what `_sibling` reads, two places for each field."""
    found: list[int] = []
    for field in layer:
        parts = (field,) if isinstance(field, np.ndarray) else (field.words, field.scales)
        found += [part.ctypes.data for part in parts] + [0] * (2 - len(parts))
    return found


@intrinsic
def _moved(typing_context, like, address):
    """An array of the shape of `like` at another address; whoever calls keeps its memory alive."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        array.data = builder.inttoptr(args[1], array.data.type)
        array.meminfo = array.meminfo.type(None)
        array.parent = array.parent.type(None)
        return array._getvalue()

    return like(like, types.int64), generate


def _matrix_at(like, places, field):
    """The matrix like `like` that `places` holds as that field."""


@overload(_matrix_at)
def _(like, places, field):
    if isinstance(like, types.Array):
        return lambda like, places, field: _moved(like, places[2 * field])
    kind = like.instance_class

    def find(like, places, field):
        words, scales = _moved(like.words, places[2 * field]), _moved(like.scales, places[2 * field + 1])
        return kind(words, scales, like.rows)

    return find


@compiled
def _sibling(like, places):
    """The layer whose `addresses` are `places`, of the types and shapes of `like`."""
    return Layer(
        _moved(like.attention_norm, places[0]),
        _matrix_at(like.qkv, places, 1),
        _moved(like.qkv_bias, places[4]),
        _moved(like.q_norm, places[6]),
        _moved(like.k_norm, places[8]),
        _matrix_at(like.output, places, 5),
        _moved(like.output_bias, places[12]),
        _moved(like.mlp_norm, places[14]),
        _matrix_at(like.gate_up, places, 8),
        _moved(like.gate_up_bias, places[18]),
        _matrix_at(like.down, places, 10),
        _moved(like.down_bias, places[22]),
    )


@compiled
def forward(
    claim,
    x,
    like,
    layers,
    eps,
    cos,
    sin,
    slots,
    keys,
    values,
    key_rows,
    value_rows,
    pools,
    pages,
    first_page,
    page_size,
    positions,
    windows,
    q,
    partial,
    attended,
    hidden,
):
    """x through all layers, in place.

    x (N, E) bf16 bits or fp32, written; like: one of the layers; layers (layers, 24) int64, the `addresses`
    of each; keys, values (L, K, D), key_rows, value_rows as in `attention`: one layer's cache; pools
    (layers, 2) int64: where each layer's keys and values begin; windows (layers,) int64, 0 for none; q,
    attended (N, H, D), hidden (N, F), partial: shared, written; the rest as in the stages; claim of PHASES
    phases per layer.
    """
    last = -(-x.shape[1] // ROWS)  # chunks of a layer's last phase
    for number in range(layers.shape[0]):
        todo = claim[PHASES * number :]
        if is_over(todo, PHASES - 1, last):
            continue  # who comes late goes on where the others are
        layer, at_keys, at_values = _sibling(like, layers[number]), pools[number, 0], pools[number, 1]
        attention_input(
            todo,
            x,
            layer.attention_norm,
            eps,
            layer.qkv,
            layer.qkv_bias,
            layer.q_norm,
            layer.k_norm,
            cos,
            sin,
            slots,
            q,
            _moved(keys, at_keys),
            _moved(values, at_values),
        )
        attention(
            todo[1:],
            q,
            _moved(key_rows, at_keys),
            _moved(value_rows, at_values),
            keys.shape[1],
            pages,
            first_page,
            page_size,
            positions,
            windows[number],
            partial,
            attended,
        )
        flat = attended.reshape(attended.shape[0], attended.shape[1] * attended.shape[2])
        attention_output(todo[3:], x, flat, layer.output, layer.output_bias, x)
        mlp(
            todo[4:],
            x,
            layer.mlp_norm,
            eps,
            layer.gate_up,
            layer.gate_up_bias,
            layer.down,
            layer.down_bias,
            hidden,
            x,
        )
