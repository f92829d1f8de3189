"""How attention is cut up, and what the programs of one launch hand each other."""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.api import AttentionShape

# Programs that one row is worth: two for each of an H200's 132 multiprocessors. One of them alone, with two
# blocks of keys and values in flight (64 KB at D = 128 in bf16), covers the 40 KB that a multiprocessor's
# share of the bandwidth takes, while the other starts or ends.
_PROGRAMS = 256
_MOST_SPLITS = 64  # what the last program of a row and head reads back grows with them
_MERGED = (
    8192  # fp32 numbers that a program reads back at a time: 64 registers a thread, and 64 for their sum
)


def block_of(head_dim: int) -> int:
    """Positions that a program takes at a time: with D = 128 in bf16, keys and values of 32 KB."""
    return 64 if head_dim <= 128 else 32


def width_of(head_dim: int) -> int:
    """Columns of a tile of vectors: a power of two, at least what tensor cores multiply at once."""
    return max(triton.next_power_of_2(head_dim), 16)


def stages_of(block: int, head_dim: int, cache: torch.dtype) -> int:
    """Pipeline stages, one more than the blocks of keys and values in shared memory, about 64 KB of them.

    Compute capability 8.9 has 99 KB for a program, and an H200 227 KB for three of them.
    """
    block_bytes = 2 * block * width_of(head_dim) * cache.itemsize
    return min(max(65536 // block_bytes, 1), 3) + 1


def most_splits(n_kv_heads: int) -> int:
    """Into how many parts a row is divided at most, however long it is.

    The device is filled by a row alone, so that the division need not depend on how many rows there are.
    """
    return min(max(_PROGRAMS // n_kv_heads, 1), _MOST_SPLITS)


def warps_of(cache: torch.dtype) -> int:
    """Per program. In fp32 tensor cores take the numbers in halves: four warps would need 255 registers."""
    return 8 if cache == torch.float32 else 4


def merged_at_once(queries: int, head_dim: int) -> int:
    """How many parts of a tile of `queries` are read back at a time."""
    return max(_MERGED // (queries * width_of(head_dim)), 1)


def base_2_scale(head_dim: int) -> float:
    """log2(e) / √D."""
    return math.log2(math.e) / math.sqrt(head_dim)


@dataclass(frozen=True, slots=True)
class AttentionScratch:
    """What the programs of one launch hand each other; launches that follow one another may share it.

    `parts` (B, K, splits, G, D), `sums` (B, K, G, splits) fp32: results of the parts and their log2 weight.
    `counters` (B·K,) int32: how many parts are done; zero between launches.
    """

    parts: Tensor
    sums: Tensor
    counters: Tensor

    @classmethod
    def make(
        cls, rows: int, shape: AttentionShape, max_positions: int, device: torch.device
    ) -> "AttentionScratch":
        """For up to `rows` rows of up to `max_positions` positions; longer ones work, in fewer parts."""
        seen = max_positions if shape.window is None else min(max_positions, shape.window)
        blocks = -(-seen // block_of(shape.head_dim))
        return cls.of_splits(rows, shape, min(most_splits(shape.n_kv_heads), blocks), device)

    @classmethod
    def of_splits(
        cls, rows: int, shape: AttentionShape, splits: int, device: torch.device
    ) -> "AttentionScratch":
        """For up to `rows` rows in up to `splits` parts each."""
        heads, group = (rows, shape.n_kv_heads), shape.n_heads // shape.n_kv_heads
        return cls(
            torch.empty(*heads, splits, group, shape.head_dim, dtype=torch.float32, device=device),
            torch.empty(*heads, group, splits, dtype=torch.float32, device=device),
            torch.zeros(rows * shape.n_kv_heads, dtype=torch.int32, device=device),
        )

    @property
    def splits(self) -> int:
        """The most parts that a row is divided into."""
        return self.sums.shape[3]


def check_heads(q: Tensor, keys: Tensor, values: Tensor, shape: AttentionShape, out: Tensor) -> None:
    """Raises `ValueError` unless these are (…, H, D), (L, K, D) twice, (…, H, D), contiguous."""
    heads, pool = (shape.n_heads, shape.head_dim), (shape.n_kv_heads, shape.head_dim)
    for name, tensor, expected in (
        ("q", q, heads),
        ("keys", keys, pool),
        ("values", values, pool),
        ("out", out, heads),
    ):
        if tensor.dim() != 3 or tensor.shape[1:] != expected or not tensor.is_contiguous():
            given = f"{list(tensor.shape)}{'' if tensor.is_contiguous() else ', not contiguous'}"
            raise ValueError(
                f"{name} is {given}; attention takes contiguous (…, {expected[0]}, {expected[1]})"
            )
    if len(q) != len(out) or keys.shape != values.shape or keys.dtype != values.dtype:
        raise ValueError(
            f"q {list(q.shape)} and out {list(out.shape)}, or keys {list(keys.shape)} {keys.dtype} and "
            f"values {list(values.shape)} {values.dtype} do not go together"
        )
