"""What a step leaves for the next one and for the host, in device memory: tokens and a ring of results.

Where the next token stands is `kernels.gpu.rows.Rows.positions`, which a step advances too.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_RING = 64  # steps that the host may be late; a power of two
_FIELDS = 4


@dataclass(frozen=True, slots=True)
class Selected:
    """What one step chose, on any device, (B,) each.

    `tokens` int32, -1 for a row that rested. Of the model's own logits, before penalty and temperature, fp32:
    `logits` of the tokens, `highest` of all, `logsumexp` of all. log p = logits - logsumexp.
    """

    tokens: Tensor
    logits: Tensor
    highest: Tensor
    logsumexp: Tensor

    @classmethod
    def of(cls, entry: Tensor) -> "Selected":
        """Views of one `StepState.ring[step % len(ring)]`, or of a copy."""
        if entry.dim() != 2 or entry.shape[1] != _FIELDS or entry.dtype != torch.int32:
            raise ValueError(f"a ring's entry is (B, {_FIELDS}) int32, not {list(entry.shape)} {entry.dtype}")
        tokens, *floats = entry.unbind(1)
        return cls(tokens, *(bits.view(torch.float32) for bits in floats))


@dataclass(frozen=True, slots=True)
class StepState:
    """Of B rows; all tensors change in place at every step.

    `tokens` (B,) int32: what each row is fed next.
    `steps` (B,) int32: steps that were taken. One count a row, so that no row waits for another; all equal
    between steps.
    `ring` (steps kept, B, 4) int32: step s leaves its `Selected` in ring[s % len(ring)].
    """

    tokens: Tensor
    steps: Tensor
    ring: Tensor

    @classmethod
    def make(cls, rows: int, device: torch.device) -> "StepState":
        """Before the first step; tokens are zero."""
        return cls(
            torch.zeros(rows, dtype=torch.int32, device=device),
            torch.zeros(rows, dtype=torch.int32, device=device),
            torch.full((_RING, rows, _FIELDS), -1, dtype=torch.int32, device=device),
        )


@triton.jit
def advance(
    rows,
    exists,
    position,
    step,
    token,
    logit,
    highest,
    logsumexp,
    positions,
    tokens,
    steps,
    ring,
    seen,
    B: tl.constexpr,
    V: tl.constexpr,
    RING: tl.constexpr,
):
    """The step of `rows` (masked by `exists`) is over: writes its results, and what the next one starts from.

    `position` and `step` are what the state holds of them. A row that rests keeps its token and position.
    """
    active = exists & (position >= 0)
    entry = ring + ((step & (RING - 1)) * B + rows) * 4
    tl.store(entry, tl.where(active, token, -1), mask=exists)
    tl.store(entry + 1, logit.to(tl.int32, bitcast=True), mask=exists)
    tl.store(entry + 2, highest.to(tl.int32, bitcast=True), mask=exists)
    tl.store(entry + 3, logsumexp.to(tl.int32, bitcast=True), mask=exists)
    tl.store(steps + rows, step + 1, mask=exists)
    tl.store(tokens + rows, token, mask=active)
    tl.store(positions + rows, position + 1, mask=active)
    if seen is not None:
        tl.store(seen + rows * V + token, 1, mask=active)
