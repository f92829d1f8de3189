"""Streaming a matrix past one to sixteen vectors: what a decode step spends its time on.

    low[p], high[p] = W[r]·x, W[r + HALF]·x

A tile of ROWS rows is ROWS/2 pairs of rows (r, r + HALF): what RoPE turns together, a gate and its up, or,
where nothing pairs, the two halves of ROWS neighbours. Pairs are numbered in runs of HALF, each run padded
to whole tiles; the n-th run begins at row 2·HALF·n.

Products are those of tensor cores: 16 rows of W, 16 columns, 8 vectors at a time. Eight vectors then cost
what one does, a vector's sums are the same to the bit alone and beside others, and an unpacked weight
needs no multiplication of its own. What a thread holds of such a product's operands is made to be what one
128-bit load gives it, by dealing rows to lanes and by renaming columns, for W and x alike: no weight passes
through shared memory. A warp's load is 8 rows by 64 bytes; of packed words 2 panels by 256 bytes. The
order that moves nothing follows from how many columns Triton gives a thread at once ("kWidth",
AccelerateMatmul.cpp: four where an operand
comes of a `join`); another one would be as right, and slower.

Shapes: G groups of rows, K chunks of 32 columns that a warp has in one step, 4 lanes of columns, 8 of rows,
N = 8 or 16 places for vectors. A step is 32·K·WARPS columns. FORM: bf16, fp16, fp32, int8 or int4.
"""

import triton
import triton.language as tl
from triton import knobs

from kernels.gpu.dealing import FIRST_OF_EQUALS

# The interpreter multiplies bf16 numbers as the integers of their bits; there operands are fp32.
_INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))

# bf16 numbers 128 … 255 end in their integer part: one `or` makes a number of seven bits, or of a nibble.
_MAGIC = tl.constexpr(0x43004300)


@triton.jit
def low_rows(first, pairs, HALF: tl.constexpr, ROWS: tl.constexpr):
    """(rows, whether they are) of the tile that begins with pair `first`; `pairs`: 0 … ROWS/2 - 1.

    The other rows of the pairs are HALF further.
    """
    RUN: tl.constexpr = (HALF + ROWS // 2 - 1) // (ROWS // 2) * (ROWS // 2)
    base = first // RUN * (2 * HALF)
    if 2 * HALF % (ROWS // 2) == 0:  # what the compiler has to know to load rows of a panel together
        base = tl.multiple_of(base, ROWS // 2)
    pairs = tl.multiple_of(first % RUN, ROWS // 2) + pairs
    return base + pairs, pairs < HALF


@triton.jit
def load_tile(
    words,
    scales,
    first,
    step,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
):
    """(weights, scales) of the pairs from `first` on, in the columns of `step`; scales 0 where none are.

    Nothing is read but weights: it may stand before `wait_for_previous`.
    """
    if FORM == "int8" or FORM == "int4":
        tile, scale = _load_packed(words, scales, first, step, M, C, HALF, FORM, GROUP, ROWS, K, WARPS)
    else:
        tile = _load_plain(words, first, step, M, C, HALF, FORM, ROWS, K, WARPS)
        scale = 0
    return tile, scale


@triton.jit
def accumulate(
    tile,
    scale,
    words,
    scales,
    x,
    first,
    next_first,
    steps,
    batch,
    PAIRS: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """(sums, tile, scale): of the pairs from `first` on, for `sum_up`; and the weights that come next.

    `tile`, `scale`: of step 0 of `first`. x (batch, C) fp32, or bf16 in words of two. When a step is
    multiplied, the next one's weights are asked for; after the last one those of `next_first`, unless that is
    PAIRS or more: they are under way while this tile is summed up and written.
    """
    total = tl.zeros((WARPS, ROWS, max(BATCH, 8)), tl.float32)
    # No pointer is negative, which the compiler cannot know: it keeps the number in a register, and `and` and
    # `or` with two numbers are one instruction, where two constants would make them two.
    magic = _MAGIC + (words.to(tl.int64) >> 63).to(tl.int32)
    for step in range(steps):
        vectors = _load_vectors(x, step, batch, C, K, WARPS, BATCH)
        if FORM == "int8" or FORM == "int4":
            total = _add_packed(total, tile, scale, vectors, magic, FORM, GROUP, ROWS, K, WARPS, BATCH)
        else:
            total = _add_plain(total, tile, vectors, FORM, ROWS, K, WARPS, BATCH)
        last = step + 1 == steps
        following = tl.where(last, next_first, first)
        if following < PAIRS:
            next_step = tl.where(last, 0, step + 1)
            tile, scale = load_tile(
                words, scales, following, next_step, M, C, HALF, FORM, GROUP, ROWS, K, WARPS
            )
    return total, tile, scale


@triton.jit
def sum_up(sums, FORM: tl.constexpr, ROWS: tl.constexpr, BATCH: tl.constexpr):
    """low, high (ROWS/2, BATCH) fp32 of what `accumulate` gave. What they meet is best asked for before."""
    REPEATS: tl.constexpr = sums.shape[2] // BATCH
    if REPEATS > 1:  # alike, and fewer to move
        sums = tl.max(tl.reshape(sums, (sums.shape[0], ROWS, BATCH, REPEATS)), axis=3)
    total = tl.sum(sums, axis=0)
    if FORM == "int8" or FORM == "int4":
        total = tl.permute(tl.reshape(total, (ROWS // 32, 2, 2, 2, 4, BATCH)), (0, 4, 1, 2, 5, 3))
    else:
        total = tl.permute(tl.reshape(total, (ROWS // 16, 2, 8, BATCH)), (0, 2, 3, 1))
    return tl.split(tl.reshape(total, (ROWS // 2, BATCH, 2)))


@triton.jit
def _load_plain(
    words,
    first,
    step,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
):
    """(G, 2, K, WARPS, 8, 16) int32 of two columns each, or (…, 32) fp32."""
    WIDTH: tl.constexpr = 1 if FORM == "fp32" else 2  # columns of an element
    CHUNK: tl.constexpr = 32 // WIDTH
    pair = tl.arange(0, ROWS // 16)[:, None, None] * 8 + tl.arange(0, 8)[None, None, :]
    row, real = low_rows(first, pair, HALF, ROWS)  # (G, 1, 8)
    half = tl.arange(0, 2)[None, :, None]
    k = tl.arange(0, K)[None, None, :, None, None, None]
    warp = step * WARPS + tl.arange(0, WARPS)[None, None, None, :, None, None]
    element = tl.arange(0, CHUNK)[None, None, None, None, None, :]
    # Halves and chunks are added last, as constants: with an address each they would take 30 registers more.
    places = words + row.to(tl.int64)[:, :, None, None, :, None] * (C // WIDTH)
    places = places + (warp * (K * CHUNK) + element)
    places = places + (half[:, :, None, None, :, None] * (HALF * (C // WIDTH)) + k * CHUNK)
    places = tl.max_contiguous(places, [1, 1, 1, 2, 4, CHUNK]) if FIRST_OF_EQUALS else places
    if M % ROWS == 0 and HALF % (ROWS // 2) == 0 and C % (32 * K * WARPS) == 0:
        return tl.load(places, eviction_policy="evict_first")
    else:
        column = (warp * K + k) * 32
        if C % 32 != 0:
            column = column + element * WIDTH
        inside = (real & (row + half * HALF < M))[:, :, None, None, :, None] & (column < C)
        return tl.load(places, mask=inside, other=0, eviction_policy="evict_first")


@triton.jit
def _load_packed(
    words,
    scales,
    first,
    step,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Words (G, K, E, WARPS, 2, 4, 4, 4) int32: E words of 8 columns, halves, quads, lanes, a quad's rows.

    Scales (G, S, WARPS, 2, 4, 4, 4) bf16 of the S groups that K chunks touch, alike for all lanes of columns.
    """
    E: tl.constexpr = 2 if FORM == "int8" else 1
    S: tl.constexpr = max(32 * K // GROUP, 1)
    PADDED: tl.constexpr = (C + GROUP - 1) // GROUP * GROUP
    group = tl.arange(0, ROWS // 32)[:, None, None, None]
    half = tl.arange(0, 2)[None, :, None, None]
    quad = tl.arange(0, 4)[None, None, :, None]
    rows, real = low_rows(first, group * 16 + quad * 4 + tl.arange(0, 4)[None, None, None, :], HALF, ROWS)
    rows = rows + half * HALF  # (G, 2, 4, 4)
    at = (rows // 16).to(tl.int64) * (PADDED // 8 * E * 16) + rows % 16
    warp = step * WARPS + tl.arange(0, WARPS)
    e = tl.arange(0, E)[None, None, :, None, None, None, None, None]
    lane = tl.arange(0, 4)[None, None, None, None, None, None, :, None]
    k = tl.arange(0, K)[None, :, None, None, None, None, None, None]
    line = warp[None, None, None, :, None, None, None, None] * (K * 4 * E) + lane * E
    places = words + at[:, None, None, None, :, :, None, :]
    places = places + line * 16
    places = places + (k * (4 * E) + e) * 16

    at = (rows // 16).to(tl.int64) * (PADDED // GROUP * 16) + rows % 16
    s = tl.arange(0, S)[None, :, None, None, None, None, None]
    begin = (warp * (32 * K) // GROUP)[None, None, :, None, None, None, None]
    scale_places = scales + at[:, None, None, :, :, None, :] + tl.zeros((1, 1, 1, 1, 1, 4, 1), tl.int32)
    scale_places = scale_places + begin * 16
    if FIRST_OF_EQUALS:
        scale_places = tl.max_contiguous(scale_places, [1, 1, 2, 4, 8, 16, 32])
    scale_places = scale_places + s * 16

    places = tl.max_contiguous(places, [1, 1, 1, 2, 4, 8, 16, 32]) if FIRST_OF_EQUALS else places
    if FIRST_OF_EQUALS:
        scale_places = tl.max_contiguous(scale_places, [1, 1, 2, 4, 8, 16, 32])
    if M % ROWS == 0 and HALF % (ROWS // 2) == 0 and PADDED % (32 * K * WARPS) == 0:
        tile = tl.load(places, eviction_policy="evict_first")
        scale = tl.load(scale_places, eviction_policy="evict_first")
    else:
        real = real & (rows < M)
        column = warp[None, None, None, :, None, None, None, None] * (32 * K) + k * 32
        inside = real[:, None, None, None, :, :, None, :] & (column < PADDED)
        tile = tl.load(places, mask=inside, other=0, eviction_policy="evict_first")
        inside = real[:, None, None, :, :, None, :] & (begin + s < PADDED // GROUP)
        scale = tl.load(scale_places, mask=inside, other=0.0, eviction_policy="evict_first")
    return tile, scale


@triton.jit
def _load_vectors(x, step, batch, C: tl.constexpr, K: tl.constexpr, WARPS: tl.constexpr, BATCH: tl.constexpr):
    """The columns of `step` of x (batch, C), zero beyond: (BATCH, 16·K·WARPS) int32 or (…, 32·K·WARPS) fp32.

    x is fp32, or bf16 in words of two.
    """
    WIDTH: tl.constexpr = 1 if x.dtype.element_ty == tl.float32 else 2  # columns of an element
    SPAN: tl.constexpr = 32 // WIDTH * K * WARPS
    n = tl.arange(0, BATCH)[:, None]
    element = step * SPAN + tl.arange(0, SPAN)[None, :]
    inside = n < batch
    if C % (32 * K * WARPS) != 0:
        inside = inside & (element < C // WIDTH)
    return tl.load(x + n * (C // WIDTH) + element, mask=inside, other=0)


@triton.jit
def _add_plain(
    total,
    tile,
    vectors,
    FORM: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """total (WARPS, ROWS, N) plus W·x of one step, each chunk of columns by itself.

    A product waits 33 cycles for the sum it adds to: 16 in a row would be a third of a microsecond. A lane
    has 8 columns of a chunk, in bits (a, b, c) of their number.
    """
    N: tl.constexpr = max(BATCH, 8)
    weights = tile if FORM == "fp32" else _in_two(tile, FORM)
    weights = tl.reshape(weights, (ROWS // 8, K, WARPS, 8, 4, 2, 2, 2))
    vectors = tl.reshape(_columns(vectors), (BATCH, WARPS, K, 4, 2, 2, 2))
    if FORM == "bf16":
        weights = tl.permute(weights, (1, 2, 0, 3, 6, 4, 5, 7))
        vectors = tl.permute(vectors, (2, 1, 5, 3, 4, 6, 0))
    else:
        weights = tl.permute(weights, (1, 2, 0, 3, 5, 6, 4, 7))
        vectors = tl.permute(vectors, (2, 1, 4, 5, 3, 6, 0))
    weights = tl.reshape(weights, (K * WARPS, ROWS, 32))
    vectors = _repeated(tl.reshape(vectors, (K * WARPS, 32, BATCH)), N)
    chunk = tl.arange(0, K)[:, None, None, None]
    begin = tl.where(chunk == 0, tl.reshape(total, (1, WARPS, ROWS, N)), 0.0)
    sums = _product(weights, vectors, tl.reshape(begin, (K * WARPS, ROWS, N)), FORM)
    return tl.sum(tl.reshape(sums, (K, WARPS, ROWS, N)), axis=0)


@triton.jit
def _add_packed(
    total,
    tile,
    scale,
    vectors,
    magic,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """total (WARPS, ROWS, N) plus W·x of one step, a group of columns at a time.

    Numbers come with a constant added to them; the constant's share is taken off by a product with the
    constant, at which theirs begins. A lane's 8 columns are (h, c, a): nibble or word, half of it, byte.
    """
    N: tl.constexpr = max(BATCH, 8)
    S: tl.constexpr = max(32 * K // GROUP, 1)
    C: tl.constexpr = 32 * K // S  # columns of a warp that share a scale
    TERMS: tl.constexpr = 2 if FORM == "int8" else 1
    vectors = tl.reshape(_columns(vectors), (BATCH, WARPS, S, C // 32, 4, 2, 2, 2))
    vectors = tl.permute(vectors, (2, 1, 3, 5, 4, 7, 6, 0))
    vectors = _repeated(tl.reshape(vectors, (S * WARPS, C, BATCH)), N)
    constant = tl.full((S * WARPS, 16, C), -384.0 if FORM == "int8" else -136.0, tl.float32)
    parts = _product(constant, vectors, tl.zeros((S * WARPS, 16, N), tl.float32), FORM)
    parts = tl.reshape(parts, (S * WARPS, 1, 16, N))
    parts = tl.reshape(tl.broadcast_to(parts, (S * WARPS, ROWS // 16, 16, N)), (S * WARPS, ROWS, N))

    vectors = tl.reshape(vectors, (S * WARPS, C // 32, 1, 32, N))
    vectors = tl.broadcast_to(vectors, (S * WARPS, C // 32, TERMS, 32, N))
    vectors = tl.reshape(vectors, (S * WARPS, TERMS * C, N))
    if FORM == "int8":
        parts = _product(_bytes(tile, magic, ROWS, S, C, WARPS), vectors, parts, FORM)
    else:
        parts = _product(_nibbles(tile, magic, ROWS, S, C, WARPS), vectors, parts, FORM)

    factor = tl.reshape(scale.to(tl.float32), (ROWS // 32, S, WARPS, 2, 4, 4, 2, 2, 1))
    factor = tl.broadcast_to(factor, (ROWS // 32, S, WARPS, 2, 4, 4, 2, 2, N // 4))
    factor = tl.reshape(factor, (ROWS // 32, S, WARPS, 2, 4, 4, 2, 2, N // 8, 2))
    factor = tl.reshape(tl.permute(factor, (1, 2, 0, 6, 7, 3, 4, 8, 5, 9)), (S, WARPS, ROWS, N))
    return total + tl.sum(tl.reshape(parts, (S, WARPS, ROWS, N)) * factor, axis=0)


@triton.jit
def _bytes(tile, magic, ROWS: tl.constexpr, S: tl.constexpr, C: tl.constexpr, WARPS: tl.constexpr):
    """(S·WARPS, ROWS, 2·C) bf16: 128 plus the lower seven bits stored, and, each 32 columns, 128 or 256.

    Their sum is 384 more than the number: bf16 has 8 bits, of which one `or` can set 7.
    """
    low = _two_bytes(tile, magic, 0x007F007F)
    high = _two_bytes(tile, magic, 0x00800080)
    numbers = tl.reshape(tl.join(low, high), (ROWS // 32, S, C // 32, 2, WARPS, 2, 4, 4, 2, 2, 2, 2, 2))
    numbers = tl.permute(numbers, (1, 4, 0, 8, 9, 5, 6, 2, 12, 3, 7, 11, 10))
    return tl.reshape(numbers, (S * WARPS, ROWS, 2 * C))


@triton.jit
def _nibbles(tile, magic, ROWS: tl.constexpr, S: tl.constexpr, C: tl.constexpr, WARPS: tl.constexpr):
    """(S·WARPS, ROWS, C) bf16: 128 plus the four bits stored, 136 more than the number."""
    low = _two_bytes(tile, magic, 0x000F000F)
    high = _two_bytes(tile >> 4, magic, 0x000F000F)
    numbers = tl.reshape(tl.join(low, high), (ROWS // 32, S, C // 32, WARPS, 2, 4, 4, 2, 2, 2, 2, 2))
    numbers = tl.permute(numbers, (1, 3, 0, 7, 8, 4, 5, 2, 11, 6, 10, 9))
    return tl.reshape(numbers, (S * WARPS, ROWS, C))


@triton.jit
def _two_bytes(tile, magic, MASK: tl.constexpr):
    """(…, 2, 2) bf16: 128 plus what MASK leaves of the bytes, (half of the word, byte of the half)."""
    return tl.join(_in_two((tile & MASK) | magic, "bf16"), _in_two(((tile >> 8) & MASK) | magic, "bf16"))


@triton.jit
def _in_two(words, FORM: tl.constexpr):
    """(…) int32 -> (…, 2) of 16 bits, the lower half first: no instruction, a product takes two in a word."""
    lower = words.to(tl.int16)
    upper = (words >> 16).to(tl.int16)
    if FORM == "fp16":
        return tl.join(lower.to(tl.float16, bitcast=True), upper.to(tl.float16, bitcast=True))
    else:
        return tl.join(lower.to(tl.bfloat16, bitcast=True), upper.to(tl.bfloat16, bitcast=True))


@triton.jit
def _repeated(vectors, N: tl.constexpr):
    """(a, b, BATCH) -> (a, b, N): each place N // BATCH times."""
    A: tl.constexpr = vectors.shape[0]
    B: tl.constexpr = vectors.shape[1]
    BATCH: tl.constexpr = vectors.shape[2]
    if BATCH == N:
        return vectors
    else:
        wide = tl.broadcast_to(tl.reshape(vectors, (A, B, BATCH, 1)), (A, B, BATCH, N // BATCH))
        return tl.reshape(wide, (A, B, N))


@triton.jit
def _columns(vectors):
    """What `load_vectors` gave as (…, 32) or (…, 16, 2) numbers."""
    return _in_two(vectors, "bf16") if vectors.dtype == tl.int32 else vectors


@triton.jit
def _product(weights, vectors, total, FORM: tl.constexpr):
    """total + weights·vectors. fp16 weights meet vectors of as many bits, but with fp32's range."""
    if FORM == "fp32" or _INTERPRETED:
        return tl.dot(weights.to(tl.float32), vectors.to(tl.float32), total, input_precision="ieee")
    elif FORM == "fp16":
        return tl.dot(weights.to(tl.float32), vectors.to(tl.float32), total, input_precision="tf32")
    else:
        return tl.dot(weights.to(tl.bfloat16), vectors.to(tl.bfloat16), total)
