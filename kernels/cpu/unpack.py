"""A packed matrix written out in full, for the library's matrix product where many tokens are new."""

import numpy as np
from numba.extending import overload

from kernels.cpu.crew import finish, take, wait
from kernels.cpu.packed import bits_of
from kernels.cpu.target import compiled, narrow, widen
from kernels.quantize import PANEL


def _number(word, i, w):
    """Column i of a word, as the number it stands for."""


@overload(_number)
def _(word, i, w):
    if bits_of(w) == 8:
        return lambda word, i, w: ((word >> (8 * i)) & 255) - 128
    return lambda word, i, w: ((word >> (8 * (i & 3) + (i & 4))) & 15) - 8


def _per_word(w):
    """Columns in one word."""


@overload(_per_word)
def _(w):
    columns = 32 // bits_of(w)
    return lambda w: columns


@compiled
def unpack(claim, w, out):
    """out[row] = scale · number, rounded once. w as `product` takes it; out (M, C) bf16 bits or fp32."""
    panels, per_word = w.words.shape[0], _per_word(w)
    group = w.words.shape[1] // w.scales.shape[1]  # in words
    chunk = take(claim, 0)
    while chunk < panels:
        for within in range(min(PANEL, out.shape[0] - chunk * PANEL)):
            row = out[chunk * PANEL + within]
            for word in range(-(-row.size // per_word)):
                held = w.words[chunk, word, within]
                scale = widen(w.scales[chunk, word // group, within])
                for i in range(min(per_word, row.size - word * per_word)):
                    row[word * per_word + i] = narrow(scale * np.float32(_number(held, i, w)), out)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, panels)
