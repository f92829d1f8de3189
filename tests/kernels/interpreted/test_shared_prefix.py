"""Attention of rows that share a prefix against the reference of each row by itself."""

import dataclasses

import pytest
import torch

from kernels.api import AttentionShape
from kernels.gpu.shared_prefix import SharedPrefixScratch, pays, shared_prefix_attention
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
    """`lengths`: positions that each row holds, the shared ones and its new token included; 0: it rests."""

    prefix: int
    lengths: tuple[int, ...]
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    window: int | None = None
    page: int = 16
    splits: int = 3
    own_splits: int = 2
    dtype: torch.dtype = BF16

    @property
    def shape(self) -> AttentionShape:
        return AttentionShape(self.heads, self.kv_heads, self.dim, self.window)


class Bench:
    """Forks of one row: whole pages of the prefix are shared, its last, begun one is copied."""

    def __init__(self, case: Case) -> None:
        self.case = case
        table, pages = pages_of(case.lengths, case.page)
        self.cache = cache_of(pages * case.page, case.shape, case.dtype)
        first = next(row for row, length in enumerate(case.lengths) if length)
        whole, begun = divmod(case.prefix, case.page)
        for row, length in enumerate(case.lengths):
            if length > case.prefix:
                table[row, :whole] = table[first, :whole]
                for pool in (self.cache.keys, self.cache.values) if begun else ():
                    ours, theirs = (int(table[r, whole]) * case.page for r in (row, first))
                    pool[ours : ours + begun] = pool[theirs : theirs + begun]
        self.prefix = torch.tensor([case.prefix], dtype=torch.int32)
        self.rows = dataclasses.replace(rows_of(case.lengths, table, case.page), prefix=self.prefix)
        self.q = rand(len(table), case.heads, case.dim, seed=3, dtype=case.dtype)
        self.scratch = SharedPrefixScratch.of_splits(
            len(table), case.shape, case.splits, case.own_splits, DEVICE
        )

    def attend(self) -> torch.Tensor:
        out = torch.full(self.q.shape, UNTOUCHED)
        cache, shape = self.cache, self.case.shape
        shared_prefix_attention(
            self.q,
            cache.keys,
            cache.values,
            self.rows,
            shape,
            self.scratch,
            out,
            dependent=False,
        )
        return out

    def expected(self, **other: object) -> torch.Tensor:
        case = dataclasses.replace(self.case, **other)  # type: ignore[arg-type]
        return decode_reference(self.q, self.cache, self.rows.pages, case.lengths, case.page, case.shape)


CASES = {
    "one-row": Case(130, (131,)),
    "every-boundary": Case(128, (129, 143, 144, 145, 191, 192, 193, 256, 257, 300)),
    "a-page-begun": Case(70, (71, 80, 81, 200)),
    "a-prefix-within-a-page": Case(7, (8, 30)),
    "a-block-and-one": Case(65, (66, 70), splits=1),
    "more-parts-than-blocks": Case(130, (131, 260, 150), splits=8, own_splits=8),
    "blocks-in-few-parts": Case(400, (401, 600, 410), splits=2, own_splits=2),
    "no-prefix": Case(0, (1, 70, 130)),
    "resting": Case(100, (0, 101, 0, 170, 0)),
    "group-7": Case(70, (71, 72, 140), heads=14, kv_heads=2),
    "group-1": Case(70, (71, 72, 140), heads=3, kv_heads=3),
    "128-queries": Case(130, tuple(range(131, 147)), heads=8, kv_heads=1, own_splits=1),
    "odd-dim": Case(70, (71, 140), dim=10),
    "dim-128": Case(70, (71, 140), dim=128),
    "window-within-own": Case(100, (200, 300), window=65),
    "window-over-the-edge": Case(100, (101, 130, 164, 165, 166, 300), window=65),
    "window-of-one": Case(100, (101, 102), window=1),
    "window-over-all": Case(100, (101, 200), window=201),
    "fp32": Case(130, (131, 132, 200), dtype=FP32),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@ALL
def test_it_is_the_reference_of_each_row(case: Case) -> None:
    bench = Bench(case)
    assert_close(bench.attend(), bench.expected())


def test_a_graph_replays_with_another_prefix_and_other_positions() -> None:
    bench = Bench(Case(100, (200, 150, 170)))
    expected = bench.expected()
    for prefix in (100, 99, 64, 1):  # what is shared may be read as a row's own
        bench.prefix.fill_(prefix)
        assert_close(bench.attend(), expected)
    bench.prefix.fill_(100)
    for lengths in ((199, 101, 0), (0, 0, 101)):
        bench.rows.positions.copy_(torch.tensor(lengths) - 1)
        assert_close(bench.attend(), bench.expected(lengths=lengths))


def test_a_row_without_a_position_of_its_own_rests() -> None:
    bench = Bench(Case(100, (140, 120)))
    bench.rows.positions[1] = 99
    found = bench.attend()
    assert_close(found[0], bench.expected()[0])
    assert (found[1] == UNTOUCHED).all()


WRONG = {
    "a-position-too-few": {"lengths": (899, 911)},
    "a-window-too-wide": {"window": 101},
    "a-window-too-narrow": {"window": 99},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_the_tolerance_catches(wrong: dict[str, object]) -> None:
    bench = Bench(Case(880, (900, 912), window=100))
    found, expected = bench.attend(), bench.expected(**wrong)
    for row in range(2):
        with pytest.raises(AssertionError):
            assert_close(found[row], expected[row])


@pytest.mark.parametrize("prefix", [99, 101])
def test_the_tolerance_catches_a_prefix_of_a_position_more_or_less(prefix: int) -> None:
    bench = Bench(Case(100, (150, 150)))
    expected = bench.expected()
    begun = int(bench.rows.pages[1, 6]) * 16 + 3  # position 99: then each row has one of its own there
    bench.cache.keys[begun : begun + 2] += 1
    bench.prefix.fill_(prefix)
    with pytest.raises(AssertionError):
        assert_close(bench.attend()[1], expected[1])


def test_scratch_has_as_many_parts_as_fill_the_device() -> None:
    def splits(rows: int, kv_heads: int, prefix: int, own: int) -> tuple[int, int]:
        shape = AttentionShape(4 * kv_heads, kv_heads, 128)
        scratch = SharedPrefixScratch.make(rows, shape, prefix, own, DEVICE)
        return scratch.prefix_splits, scratch.splits - scratch.prefix_splits

    assert splits(8, 8, 4096, 1024) == (16, 4)
    assert splits(2, 2, 100_000, 100_000) == (32, 64)
    assert splits(8, 8, 65, 1) == (2, 1)
    assert splits(2, 8, 0, 4096) == (1, 16)


def test_it_pays_from_as_many_bytes_on_as_a_launch_is_worth() -> None:
    def fewest(rows: int, shape: AttentionShape, dtype: torch.dtype = BF16) -> int | None:
        return next((n for n in range(5000) if pays(rows, n, shape, dtype)), None)

    small, large = AttentionShape(32, 8, 64), AttentionShape(32, 8, 128)
    assert [fewest(8, small), fewest(8, large), fewest(2, large)] == [586, 293, 2048]
    assert fewest(8, small, FP32) == 293 and fewest(9, small, FP32) is None, "36 queries of 32"
    assert fewest(1, large) is None
    assert fewest(8, dataclasses.replace(large, window=292)) is None, "no more of it is seen"


def test_what_does_not_fit_is_refused() -> None:
    bench = Bench(Case(70, (80,) * 16, heads=18, kv_heads=2))
    with pytest.raises(ValueError, match="16 rows are 144 queries for a head; a shared prefix takes 128"):
        bench.attend()
    bench = Bench(Case(70, (80,) * 9, dtype=FP32, heads=8, kv_heads=2))
    with pytest.raises(ValueError, match="9 rows are 36 queries for a head; a shared prefix takes 32"):
        bench.attend()
    bench = Bench(Case(70, (80,)))
    for prefix, given in ((bench.prefix.long(), r"\[1\] torch.int64"), (None, "None")):
        bench.rows = dataclasses.replace(bench.rows, prefix=prefix)
        with pytest.raises(ValueError, match=f"the prefix is {given}, not one int32"):
            bench.attend()
    bench = Bench(Case(70, (80, 90)))
    bench.scratch = SharedPrefixScratch.of_splits(1, bench.case.shape, 1, 1, DEVICE)
    with pytest.raises(ValueError, match="scratch for 1 rows, but 2 rows"):
        bench.attend()
