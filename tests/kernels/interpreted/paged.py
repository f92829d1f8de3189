"""What the tests of attention on the GPU share: caches with shuffled pages, and the reference over them."""

import torch

from kernels.api import AttentionShape, LayerCache, Layout, RowSpan
from kernels.gpu.rows import Rows
from kernels.reference import TorchBackend
from tests.kernels.interpreted.where import DEVICE, bound

BF16, FP32 = torch.bfloat16, torch.float32
UNTOUCHED = 77.0  # what outputs hold before
NO_PAGE = 2**30  # in a page table past the row's pages; reading through it is fatal


def rand(*shape: int, seed: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, device="cpu").to(DEVICE, dtype)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Both sum some hundred terms in fp32, in another order: a few units in the last place of the largest.

    On a device weights of a softmax are rounded to the cache's dtype before they meet the values.
    """
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max().item() <= bound(2.0**-19) * expected.abs().max().item()


def pages_of(lengths: tuple[int, ...], page: int) -> tuple[torch.Tensor, int]:
    """A table (B, P) int32 of pages dealt out in a shuffled order, and how many pages the pool has."""
    held = [-(-length // page) for length in lengths]
    draw = torch.Generator().manual_seed(7)
    deck = torch.randperm(sum(held) + 3, generator=draw, device="cpu").to(DEVICE, torch.int32)
    table = torch.full((len(held), max(held) + 1), NO_PAGE, dtype=torch.int32)
    first = 0
    for row, count in enumerate(held):
        table[row, :count] = deck[first : first + count]
        first += count
    return table, len(deck)


def cache_of(slots: int, shape: AttentionShape, dtype: torch.dtype) -> LayerCache:
    """Numbers in every slot, also where no row has a position; keys large enough for weights that differ."""
    pool = (slots, shape.n_kv_heads, shape.head_dim)
    return LayerCache(rand(*pool, seed=1, dtype=dtype) * 2, rand(*pool, seed=2, dtype=dtype))


def rows_of(lengths: tuple[int, ...], pages: torch.Tensor, page: int) -> Rows:
    """Rows whose new token is their last position; a row of length 0 rests."""
    nothing = torch.zeros(1, 1)
    return Rows(torch.tensor(lengths, dtype=torch.int32) - 1, pages, nothing, nothing, page)


def layout_of(spans: list[RowSpan], page: int) -> Layout:
    """As attention reads it: without angles and slots."""
    nothing = torch.zeros(0)
    return Layout(tuple(spans), nothing, nothing, nothing, nothing, page)


def reference(q: torch.Tensor, cache: LayerCache, layout: Layout, shape: AttentionShape) -> torch.Tensor:
    """`TorchBackend.attention` of the same numbers in fp32."""
    backend = TorchBackend(DEVICE)
    layer = backend.prepare_layer(None, shape, 0.0)  # type: ignore[arg-type]
    return backend.attention(q.float(), layer, LayerCache(cache.keys.float(), cache.values.float()), layout)


def decode_reference(
    q: torch.Tensor,
    cache: LayerCache,
    pages: torch.Tensor,
    lengths: tuple[int, ...],
    page: int,
    shape: AttentionShape,
) -> torch.Tensor:
    """Of one new token a row, (B, H, D); rows that rest are untouched."""
    spans: list[RowSpan] = []
    live = [row for row, length in enumerate(lengths) if length]
    for n, row in enumerate(live):
        held = pages[row, : -(-lengths[row] // page)].long()
        spans.append(RowSpan(n, n + 1, lengths[row], held, None))
    out = torch.full(q.shape, UNTOUCHED)
    out[live] = reference(q[live], cache, layout_of(spans, page), shape)
    return out
