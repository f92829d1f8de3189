"""Prefill attention against the reference: rows of different lengths, chunks, windows, tiles and blocks."""

import dataclasses

import pytest
import torch

from kernels.api import AttentionShape, RowSpan
from kernels.gpu.prefill import PrefillTiles, prefill_attention
from tests.kernels.interpreted.paged import (
    BF16,
    FP32,
    UNTOUCHED,
    assert_close,
    cache_of,
    layout_of,
    pages_of,
    rand,
    reference,
)
from tests.kernels.interpreted.where import DEVICE


@dataclasses.dataclass(frozen=True)
class Case:
    """`rows`: (positions that a row holds with its new tokens, new tokens) of each."""

    rows: tuple[tuple[int, int], ...]
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    window: int | None = None
    page: int = 16
    dtype: torch.dtype = BF16

    @property
    def shape(self) -> AttentionShape:
        return AttentionShape(self.heads, self.kv_heads, self.dim, self.window)


class Bench:
    """Queries, cache and layout of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        table, pages = pages_of(tuple(length for length, _ in case.rows), case.page)
        self.cache = cache_of(pages * case.page, case.shape, case.dtype)
        self.pages = table.long()
        self.q = rand(sum(new for _, new in case.rows), case.heads, case.dim, seed=3, dtype=case.dtype)

    def attend(self, dtype: torch.dtype = FP32) -> torch.Tensor:
        out = torch.full(self.q.shape, UNTOUCHED, dtype=dtype)
        shape, cache = self.case.shape, self.cache
        tiles = PrefillTiles.make(
            layout_of(self.spans(self.case), self.case.page), shape, cache.keys.dtype, DEVICE
        )
        prefill_attention(self.q, cache.keys, cache.values, tiles, shape, out)
        return out

    def spans(self, case: Case) -> list[RowSpan]:
        spans: list[RowSpan] = []
        start = 0
        for n, (length, new) in enumerate(case.rows):
            held = self.pages[n, : -(-length // case.page)]
            spans.append(RowSpan(start, start + new, length, held, None))
            start += new
        return spans

    def expected(self, **other: object) -> torch.Tensor:
        case = dataclasses.replace(self.case, **other)  # type: ignore[arg-type]
        return reference(self.q, self.cache, layout_of(self.spans(case), case.page), case.shape)


CASES = {
    "one-token": Case(((1, 1),)),
    "a-block-less-one": Case(((63, 63),)),
    "a-block": Case(((64, 64),)),
    "a-block-and-one": Case(((65, 65),)),
    "several-tiles": Case(((150, 150),), heads=2, kv_heads=1),
    "a-chunk": Case(((200, 70),)),
    "chunks-at-block-boundaries": Case(((64, 1), (65, 1), (128, 64), (129, 64), (130, 66)), kv_heads=1),
    "chunks-over-a-block-boundary": Case(((65, 3), (66, 3), (67, 3), (128, 66)), kv_heads=1),
    "few-tokens-late": Case(((300, 3),)),
    "one-token-late": Case(((300, 1),)),
    "rows-of-many-lengths": Case(((9, 9), (130, 5), (3, 3), (70, 70), (1, 1), (200, 2)), kv_heads=1),
    "pages-of-one": Case(((70, 30), (5, 5)), page=1),
    "pages-larger-than-blocks": Case(((200, 20), (129, 129)), page=128),
    "group-1": Case(((140, 140),), heads=1, kv_heads=1),
    "group-3": Case(((90, 60), (20, 20)), heads=3, kv_heads=1),
    "group-7": Case(((90, 40), (20, 20)), heads=14, kv_heads=2),
    "group-8": Case(((90, 40),), heads=8, kv_heads=1),
    "group-of-more-than-a-tile": Case(((20, 3),), heads=131, kv_heads=1),
    "odd-dim": Case(((90, 70),), dim=10),
    "dim-64": Case(((90, 70),), dim=64),
    "dim-128": Case(((90, 70),), dim=128),
    "dim-160": Case(((90, 70),), dim=160),
    "window": Case(((200, 120), (66, 1), (30, 30)), window=65, kv_heads=1),
    "window-of-one": Case(((130, 100),), window=1),
    "window-of-a-block": Case(((200, 100), (64, 64)), window=64),
    "window-over-blocks": Case(((400, 100),), window=200),
    "window-over-blocks-dim-128": Case(((300, 40),), window=150, dim=128),
    "window-of-tiles-over-a-block": Case(((600, 65), (601, 66), (602, 67), (129, 129)), 1, 1, window=200),
    "window-over-all": Case(((90, 90),), window=90),
    "fp32": Case(((90, 70), (20, 1)), dtype=FP32),
    "fp32-dim-128-window": Case(((90, 30),), dtype=FP32, dim=128, window=40),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@ALL
def test_it_is_the_reference(case: Case) -> None:
    bench = Bench(case)
    assert_close(bench.attend(), bench.expected())


def test_what_it_writes_is_rounded_to_the_output() -> None:
    bench = Bench(CASES["a-chunk"])
    # the interpreter cuts fp32 off where the hardware rounds it
    assert torch.allclose(bench.attend(BF16).float(), bench.attend(), rtol=2.0**-7, atol=0)


WRONG = {
    "a-position-too-few": {"rows": ((199, 70), (149, 3))},
    "a-window-too-wide": {"window": 101},
    "a-window-too-narrow": {"window": 99},
}


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_the_tolerance_catches(wrong: dict[str, object], dtype: torch.dtype) -> None:
    bench = Bench(Case(((200, 70), (150, 3)), window=100, dtype=dtype))
    found, expected = bench.attend(), bench.expected(**wrong)
    for query in (0, 69, 70, 72):  # the first and the last of each row
        with pytest.raises(AssertionError):
            assert_close(found[query], expected[query])


def test_every_query_is_in_one_tile_and_the_longest_come_first() -> None:
    rows = ((150, 150), (40, 40), (3000, 7))
    bench = Bench(Case(rows, page=64))
    shape = bench.case.shape
    tiles = PrefillTiles.make(layout_of(bench.spans(bench.case), 64), shape, BF16, DEVICE)
    assert tiles.queries == 128
    queries: list[tuple[int, int]] = []
    ends: list[int] = []
    for start, new, before, pages, first in tiles.table.tolist():
        last = min(first + 128, 2 * new)
        queries += [(start + n // 2, n % 2) for n in range(first, last)]
        ends.append(before + first // 2)
        assert before == {150: 0, 40: 0, 7: 2993}[new]
        row = {150: 0, 40: 1, 7: 2}[new]
        held = -(-rows[row][0] // 64)
        assert torch.equal(tiles.pages[pages : pages + held].long(), bench.pages[row, :held])
    assert sorted(queries) == [(token, head) for token in range(197) for head in range(2)]
    assert ends == sorted(ends, reverse=True)


def test_what_does_not_fit_is_refused() -> None:
    bench = Bench(Case(((70, 30),)))
    bench.q = bench.q[:, :, :10]
    with pytest.raises(ValueError, match=r"q is \[30, 4, 10\], not contiguous; attention takes"):
        bench.attend()
