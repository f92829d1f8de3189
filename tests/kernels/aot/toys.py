"""Small kernels in the shapes of the real ones, and the same with one mistake each, for the gates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dependent import let_next_start, wait_for_previous

ROWS, COLUMNS = 512, 2048


@triton.jit
def gemv(
    x,
    weight,
    out,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
    WAITS: tl.constexpr,
    EARLY: tl.constexpr,
    STRIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = weight · x, ROWS rows a program; every STRIDE-th column, the first ones loaded AHEAD of the wait.

    WAITS over one: in a loop, EARLY reads of x: what a kernel must not do.
    """
    let_next_start(DEPENDENT)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    block = weight + rows[:, None] * (COLUMNS * STRIDE) + columns[None, :] * STRIDE
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    if AHEAD:
        first = tl.load(block)
    if EARLY:
        bias = tl.load(x)
    if WAITS == 1:
        wait_for_previous(DEPENDENT)
    else:
        for _ in range(tl.num_programs(1)):
            wait_for_previous(DEPENDENT)
    if not EARLY:
        bias = tl.load(x)
    if not AHEAD:
        first = tl.load(block)
    for start in tl.range(0, COLUMNS, BLOCK):
        total += first.to(tl.float32) * tl.load(x + start + columns).to(tl.float32)[None, :]
        inside = start + BLOCK + columns < COLUMNS
        first = tl.load(block + (start + BLOCK) * STRIDE, mask=inside[None, :], other=0.0)
    tl.store(out + rows, (tl.sum(total, 1) + bias.to(tl.float32)).to(out.dtype.element_ty))


@triton.jit
def attend(q, keys, values, pages, position, out, PAGE: tl.constexpr, D: tl.constexpr):
    """One head of one row over its pages: addresses by way of loaded data, a loop of unknown length."""
    d = tl.arange(0, D)
    slots = tl.arange(0, PAGE)
    query = tl.load(q + d).to(tl.float32)
    total = tl.zeros((D,), tl.float32)
    weights = tl.zeros((), tl.float32)
    last = tl.load(position)
    for page in range(0, tl.cdiv(last + 1, PAGE)):
        at = (tl.load(pages + page).to(tl.int64) * PAGE + slots)[:, None] * D + d[None, :]
        key = tl.load(keys + at).to(tl.float32)
        value = tl.load(values + at).to(tl.float32)
        weight = tl.exp(tl.sum(key * query[None, :], 1))
        weight = tl.where(page * PAGE + slots <= last, weight, 0.0)
        total += tl.sum(weight[:, None] * value, 0)
        weights += tl.sum(weight, 0)
    tl.store(out + d, (total / weights).to(out.dtype.element_ty))


@triton.jit
def copy(source, target, stride):
    """target[i] = source[i · stride], one a program."""
    at = tl.program_id(0)
    tl.store(target + at, tl.load(source + at * stride))


@triton.jit
def mixed(flag, target, scale, source, count):
    """target[i] = source[i] · scale where flag: parameters of 1, 8, 4, 8 and 4 bytes."""
    at = tl.program_id(0)
    if flag & (at < count):
        tl.store(target + at, tl.load(source + at) * scale)


@triton.jit
def redefined(target, flag):
    """Does not compile, though Python runs it: a name is of two shapes."""
    at = tl.arange(0, 8)
    if flag > 1:
        at = tl.arange(0, 16)
    tl.store(target + at, at)


def launch_gemv(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    dependent: bool,
    ahead: bool = True,
    waits: int = 1,
    early: bool = False,
    stride: int = 1,
    instructions: bool | None = None,
    **options: int,
) -> None:
    """`instructions`: those of dependent launch; as `dependent` says where it is None."""
    said = dependent if instructions is None else instructions
    constants = (x.shape[0], 4, 1024, ahead, waits, early, stride, said)
    gemv[(len(weight) // 4,)](x, weight, out, *constants, launch_pdl=dependent, **options)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def operands(stride: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and out of `launch_gemv`."""
    return meta(COLUMNS), meta(ROWS, COLUMNS * stride), meta(ROWS)


def launch_attend() -> None:
    pool = meta(64 * 16, 64)
    one = meta(64)
    attend[(1,)](
        one, pool, pool, meta(64, dtype=torch.int32), meta(1, dtype=torch.int32), one, 16, 64, num_warps=1
    )
