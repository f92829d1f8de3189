"""What every stage asks of a matrix, whether it holds bf16 or fp32 (`gemv`) or packed numbers (`packed`).

A stage spreads room for its vectors, places them, then takes the product of as many rows as it wants. Which
of the two runs is decided when the stage is compiled.
"""

from numba import types
from numba.extending import overload

from kernels.cpu import gemv, packed


def rows_of(w):
    """M of W (M, C)."""


def spread(w, vectors):
    """Room for `vectors` x that W is to meet, laid out as it wants them."""


def place(x, laid):
    """Lay x (N, C), bf16 bits or float32, out in what `spread` gave."""


def place_normed(x, gain, eps, laid):
    """Lay gain · x / sqrt(mean(x²) + eps) out. x (N, E) bf16 bits or float32, gain (E,) fp32."""


def dot_rows(w, first, count, laid, y, column):
    """y[n, column + i] = w[first + i] · x[n] for i < count and all x in `laid`. y (N, ...) float32."""


def _is_packed(kind):
    return isinstance(kind, types.BaseNamedTuple)


@overload(rows_of)
def _(w):
    return (lambda w: w.rows) if _is_packed(w) else (lambda w: w.shape[0])


@overload(spread)
def _(w, vectors):
    if not _is_packed(w):
        return gemv.room_for(w)
    return lambda w, vectors: packed.spread(w, vectors)


@overload(place)
def _(x, laid):
    chosen = packed.place if _is_packed(laid) else gemv.place
    return lambda x, laid: chosen(x, laid)


@overload(place_normed)
def _(x, gain, eps, laid):
    chosen = packed.place_normed if _is_packed(laid) else gemv.place_normed
    return lambda x, gain, eps, laid: chosen(x, gain, eps, laid)


@overload(dot_rows)
def _(w, first, count, laid, y, column):
    chosen = packed.dot_rows if _is_packed(w) else gemv.dot_rows
    return lambda w, first, count, laid, y, column: chosen(w, first, count, laid, y, column)
