"""Decode attention against the reference: what rows, parts, blocks and pages must not change."""

import dataclasses

import pytest
import torch

from kernels.api import AttentionShape
from kernels.gpu.attention import decode_attention
from kernels.gpu.attention_scratch import AttentionScratch
from tests.kernels.interpreted.paged import (
    BF16,
    FP32,
    UNTOUCHED,
    assert_close,
    cache_of,
    decode_reference,
    pages_of,
    rand,
    rows_of,
)
from tests.kernels.interpreted.where import DEVICE


@dataclasses.dataclass(frozen=True)
class Case:
    """`lengths`: positions that each row holds with its new token; 0 for a row that rests."""

    lengths: tuple[int, ...]
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    window: int | None = None
    page: int = 16
    splits: int = 3
    dtype: torch.dtype = BF16

    @property
    def shape(self) -> AttentionShape:
        return AttentionShape(self.heads, self.kv_heads, self.dim, self.window)


class Bench:
    """Queries, cache and scratch of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        table, pages = pages_of(case.lengths, case.page)
        self.cache = cache_of(pages * case.page, case.shape, case.dtype)
        self.rows = rows_of(case.lengths, table, case.page)
        self.q = rand(len(table), case.heads, case.dim, seed=3, dtype=case.dtype)
        self.scratch = AttentionScratch.of_splits(len(table), case.shape, case.splits, DEVICE)

    def attend(self, dtype: torch.dtype = FP32) -> torch.Tensor:
        out = torch.full(self.q.shape, UNTOUCHED, dtype=dtype)
        cache, shape = self.cache, self.case.shape
        decode_attention(
            self.q, cache.keys, cache.values, self.rows, shape, self.scratch, out, dependent=False
        )
        assert not self.scratch.counters.any()  # a graph is replayed without clearing them
        return out

    def expected(self, **other: object) -> torch.Tensor:
        case = dataclasses.replace(self.case, **other)  # type: ignore[arg-type]
        return decode_reference(self.q, self.cache, self.rows.pages, case.lengths, case.page, case.shape)


# a page is 16 positions, a block 64
AROUND = (1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257)
CASES = {
    "every-boundary-in-one-part": Case(AROUND, heads=2, kv_heads=1, splits=1),
    "every-boundary-in-two-parts": Case(AROUND, heads=2, kv_heads=1, splits=2),
    "every-boundary-in-more-parts-than-blocks": Case(AROUND, heads=2, kv_heads=1, splits=8),
    "pages-larger-than-blocks": Case((1, 64, 127, 128, 129, 300), page=128),
    "pages-of-one": Case((1, 2, 70), page=1),
    "one-row": Case((200,)),
    "very-different-lengths": Case((1, 900, 3, 70), splits=5),
    "parts-merged-in-several-goes": Case((70, 400), heads=8, kv_heads=1, dim=128, splits=7),
    "resting": Case((0, 70, 0, 1, 130, 0)),
    "group-1": Case((70, 130), heads=3, kv_heads=3),
    "group-3": Case((70, 130), heads=3, kv_heads=1),
    "group-7": Case((70, 130), heads=14, kv_heads=2),
    "group-8": Case((70, 130), heads=8, kv_heads=1),
    "group-17": Case((70, 130), heads=17, kv_heads=1),
    "odd-dim": Case((70, 130), dim=10, heads=6),
    "dim-64": Case((70, 130), dim=64),
    "dim-128": Case((70, 130), dim=128),
    "dim-160": Case((70, 130), dim=160),
    "window": Case((1, 20, 64, 65, 66, 129, 200, 300, 0), window=65),
    "window-of-one": Case((1, 64, 65, 300), window=1),
    "window-over-parts": Case((200, 201, 400), window=200, page=4),
    "fp32": Case((1, 31, 32, 33, 64, 65, 200), dtype=FP32),
    "fp32-dim-128": Case((1, 70), dtype=FP32, dim=128),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@ALL
def test_it_is_the_reference(case: Case) -> None:
    bench = Bench(case)
    assert_close(bench.attend(), bench.expected())


@pytest.mark.parametrize("name", ["every-boundary-in-two-parts", "resting", "window-over-parts"])
def test_it_can_be_called_again(name: str) -> None:
    bench = Bench(CASES[name])
    assert torch.equal(bench.attend(), bench.attend())


def test_what_it_writes_is_rounded_to_the_output() -> None:
    bench = Bench(CASES["resting"])
    # the interpreter cuts fp32 off where the hardware rounds it
    assert torch.allclose(bench.attend(BF16).float(), bench.attend(), rtol=2.0**-7, atol=0)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    bench = Bench(Case((900, 1, 70, 130), splits=4))
    together = bench.attend()
    for row in range(4):
        rows = dataclasses.replace(
            bench.rows, positions=bench.rows.positions[row : row + 1], pages=bench.rows.pages[row : row + 1]
        )
        alone = torch.empty(1, 4, 16)
        cache, q = bench.cache, bench.q[row : row + 1]
        scratch = bench.scratch if row % 2 else AttentionScratch.of_splits(1, bench.case.shape, 4, DEVICE)
        decode_attention(q, cache.keys, cache.values, rows, bench.case.shape, scratch, alone, dependent=False)
        assert torch.equal(alone[0], together[row])


def test_a_graph_replays_at_the_next_position() -> None:
    bench = Bench(Case((131, 66, 0)))
    bench.attend()
    for lengths in ((128, 64, 0), (129, 65, 0), (0, 66, 0), (1, 1, 0)):
        bench.rows.positions.copy_(torch.tensor(lengths) - 1)
        assert_close(bench.attend(), bench.expected(lengths=lengths))


WRONG = {
    "a-position-too-few": {"lengths": (899, 69, 129)},
    "a-window-too-wide": {"window": 101},
    "a-window-too-narrow": {"window": 99},
}


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_the_tolerance_catches(wrong: dict[str, object], dtype: torch.dtype) -> None:
    bench = Bench(Case((900, 70, 130), window=100, dtype=dtype))
    found = bench.attend()
    expected = bench.expected(**wrong)
    for row in (0, 2):  # the window is wider than the row in between
        with pytest.raises(AssertionError):
            assert_close(found[row], expected[row])


def test_the_tolerance_catches_pages_of_another_row() -> None:
    bench = Bench(Case((900, 70, 130)))
    expected = bench.expected()
    pages = bench.rows.pages
    pages[0, 55], pages[2, 7] = pages[2, 7].clone(), pages[0, 55].clone()
    found = bench.attend()
    assert_close(found[1], expected[1])
    for row in (0, 2):
        with pytest.raises(AssertionError):
            assert_close(found[row], expected[row])


def test_scratch_has_as_many_parts_as_fill_the_device() -> None:
    def splits(kv_heads: int, dim: int, positions: int, window: int | None = None) -> int:
        shape = AttentionShape(2 * kv_heads, kv_heads, dim, window)
        return AttentionScratch.make(2, shape, positions, DEVICE).splits

    assert splits(8, 128, 8192) == 32
    assert splits(8, 64, 500) == 8
    assert splits(2, 64, 100_000) == 64
    assert splits(300, 64, 8192) == 1
    assert splits(8, 64, 100_000, window=513) == 9


def test_what_does_not_fit_is_refused() -> None:
    bench = Bench(Case((70, 130)))
    q, cache, scratch, shape = bench.q, bench.cache, bench.scratch, bench.case.shape
    out = torch.empty_like(q)

    def attend(**other: torch.Tensor | AttentionScratch) -> None:
        given = {"q": q, "keys": cache.keys, "values": cache.values, "scratch": scratch, "out": out, **other}
        decode_attention(**given, rows=bench.rows, shape=shape, dependent=False)  # type: ignore[arg-type]

    attend()
    with pytest.raises(ValueError, match=r"q is \[2, 3, 16\]; attention takes contiguous \(…, 4, 16\)"):
        attend(q=q[:, :3].contiguous())
    with pytest.raises(ValueError, match=r"keys is .*, not contiguous"):
        attend(keys=cache.keys.transpose(0, 1).contiguous().transpose(0, 1))
    with pytest.raises(ValueError, match=r"values .* do not go together"):
        attend(values=cache.values.float())
    with pytest.raises(ValueError, match="scratch for 1 rows, but 2 rows"):
        attend(scratch=AttentionScratch.of_splits(1, shape, 3, DEVICE))
