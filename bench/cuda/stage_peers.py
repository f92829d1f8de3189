"""What torch offers for a stage: F.linear and Inductor; every SDPA backend and flex_attention.

Plain bf16 only. A peer is given what our kernel is given, laid out as it likes it best, in copies as cold.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.cuda.stage_work import StageWork
from kernels.api import AttentionShape, LayerCache
from kernels.reference import row_positions

SDPA = {
    "math": "MATH",
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """`call(i)` on copy i gives an answer to be compared with `expected()`; None where none is comparable."""

    name: str
    backend: str
    call: Callable[[int], Tensor]
    expected: Callable[[], Tensor]


def product_peers(work: StageWork, *, compiles: bool) -> Iterator[Peer]:
    """W·x alone, without the norm, the activation or the residual that our kernel has in the same launch."""
    vectors, matrices = work.vectors, work.matrices
    if vectors is None or not all(isinstance(matrix, Tensor) for matrix in matrices):
        return

    def linear(index: int) -> Tensor:
        return functional.linear(vectors, matrices[index % len(matrices)])  # type: ignore[arg-type]

    def expected() -> Tensor:
        return functional.linear(vectors.float(), matrices[0].float())  # type: ignore[union-attr]

    yield Peer("F.linear", "torch", linear, expected)
    if compiles:
        torch.compiler.reset()  # see `attention_peers`
        tuned = torch.compile(functional.linear, mode="max-autotune-no-cudagraphs", dynamic=False)

        def compiled(index: int) -> Tensor:
            return tuned(vectors, matrices[index % len(matrices)])  # type: ignore[arg-type]

        yield Peer("Inductor max-autotune", "inductor", compiled, expected)


def attention_peers(work: StageWork, shape: AttentionShape, *, compiles: bool) -> Iterator[Peer]:
    """One query a row over its own positions, keys and values contiguous (B, K, S, D), rows of one length."""
    assert work.q is not None and work.layout is not None
    if shape.window is not None:
        return
    queries = work.q.unsqueeze(2)  # (B, H, 1, D)
    held = [_contiguous(cache, work) for cache in work.caches]
    grouped = shape.n_heads != shape.n_kv_heads

    def sdpa(index: int, chosen: Any = None) -> Tensor:
        keys, values = held[index % len(held)]
        with nullcontext() if chosen is None else torch.nn.attention.sdpa_kernel(chosen):
            out = functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=grouped)
        return out.squeeze(2)

    yield Peer("SDPA", "torch", sdpa, work.expected)
    for name, backend in SDPA.items():
        chosen = getattr(torch.nn.attention.SDPBackend, backend)
        yield Peer(f"SDPA {name}", "torch", partial(sdpa, chosen=chosen), work.expected)
    if compiles:
        from torch.nn.attention.flex_attention import flex_attention

        # Dynamo keeps at most 8 compilations of a function and takes further ones for eager without a word
        # in our records; every case is one, of either model, and none is needed again.
        torch.compiler.reset()
        flex = torch.compile(flex_attention, dynamic=False)

        def flexible(index: int) -> Tensor:
            keys, values = held[index % len(held)]
            return flex(queries, keys, values, enable_gqa=grouped).squeeze(2)

        yield Peer("flex_attention", "inductor", flexible, work.expected)


def _contiguous(cache: LayerCache, work: StageWork) -> tuple[Tensor, Tensor]:
    assert work.layout is not None
    rows, page = work.layout.rows, work.layout.page_size

    def view(pool: Tensor) -> Tensor:
        return torch.stack([row_positions(pool, row, 0, page).transpose(0, 1) for row in rows]).contiguous()

    return view(cache.keys), view(cache.values)
