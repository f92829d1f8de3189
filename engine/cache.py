"""The paged key/value cache: one owner of positions, and of which page belongs to whom.

A row is a list of pages. `fork` shares them; a page that two rows hold is copied before either writes to
it. `truncate` drops pages and leaves the rest untouched, so that what comes next is bit for bit what would
have come then. Slots past a row's length hold stale numbers that no one reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

import torch

from engine.rope import angles
from kernels.api import LayerCache, Layout, RowSpan


class CacheFull(RuntimeError):
    """No free page is left. The engine sizes the cache for a request, so this is a bug or a bad size."""


@dataclass(slots=True)
class _Row:
    """`table`: the pages as a tensor, and their first slot where they are consecutive; None once changed.

    They change once in a page of tokens: a step of 16 rows would make 16 small tensors for nothing.
    """

    pages: list[int] = field(default_factory=list)
    length: int = 0
    table: tuple[torch.Tensor, int | None] | None = None


def new_pool(
    n_layers: int, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[LayerCache, ...]:
    """Slots (L, K, D) of every layer, zeroed."""
    # zeros, not empty: on a CPU untouched pages then cost no memory, and masked slots stay finite.
    return tuple(
        LayerCache(
            torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
        )
        for _ in range(n_layers)
    )


class KVCache:
    """Keys and values of `pages` x `page_size` slots per layer, the first ones of `layers`.

    `frequencies` (D/2,) fp32 and `rope_factor` give the rotary angles of the positions it hands out.
    """

    def __init__(
        self,
        layers: Sequence[LayerCache],
        *,
        pages: int,
        page_size: int,
        frequencies: torch.Tensor,
        rope_factor: float,
        device: torch.device,
    ) -> None:
        self.layers = tuple(layers)
        self.page_size = page_size
        self._device = device
        self._frequencies = frequencies.to(device)
        self._rope_factor = rope_factor
        self._holders = [0] * pages
        self._free = list(range(pages - 1, -1, -1))  # popped from the end: the lowest page first
        self._rows: dict[int, _Row] = {}
        self._next_row = 0

    @property
    def free_pages(self) -> int:
        return len(self._free)

    def length(self, row: int) -> int:
        """How many positions the row has."""
        return self._rows[row].length

    def add_row(self) -> int:
        """A new, empty row."""
        return self._admit(_Row())

    def fork(self, row: int) -> int:
        """A new row with the same content; pages are shared until one of the two writes to them."""
        source = self._rows[row]
        shared = source.pages[: -(-source.length // self.page_size)]  # not what it has in reserve
        for page in shared:
            self._holders[page] += 1
        return self._admit(_Row(shared, source.length))

    def truncate(self, row: int, length: int) -> None:
        """Forget the positions from `length` on. Raises `ValueError` beyond the row's length."""
        held = self._rows[row]
        if not 0 <= length <= held.length:
            raise ValueError(f"cannot truncate a row of {held.length} positions to {length}")
        keep = -(-length // self.page_size)
        if keep < len(held.pages):
            held.table = None
        for page in held.pages[keep:]:
            self._release(page)
        del held.pages[keep:]
        held.length = length

    def free(self, row: int) -> None:
        """The row is gone, and so are the pages that only it held."""
        self.truncate(row, 0)
        del self._rows[row]

    def reserve(self, new: Mapping[int, int]) -> None:
        """Pages for `new[row]` >= 1 more tokens in each row, so that it can `advance` to there.

        Copies a shared page that would be written to. Raises `CacheFull`, in which case nothing has changed.
        """
        self._require(new)
        for row, count in new.items():
            self._own(self._rows[row], count)

    def advance(self, row: int) -> None:
        """One more token of a row that has a page in reserve for it: whoever writes it knows where."""
        held = self._rows[row]
        if held.length == len(held.pages) * self.page_size:
            raise ValueError(f"a row of {held.length} positions has no page in reserve")
        held.length += 1

    def pages(self, row: int) -> Sequence[int]:
        """The row's pages in order, those in reserve included."""
        return tuple(self._rows[row].pages)

    def shared(self, rows: Sequence[int]) -> int:
        """How many first positions all of `rows` hold in the same pages: those of forks."""
        held = [self._rows[row] for row in rows]
        same = takewhile(lambda pages: len(set(pages)) == 1, zip(*(row.pages for row in held), strict=False))
        return min(sum(1 for _ in same) * self.page_size, *(row.length for row in held))

    def extend(self, new: Mapping[int, int]) -> Layout:
        """Room for `new[row]` >= 1 more tokens in each row, in that order, as the layout of one forward.

        Mutates the rows' lengths, and copies a shared page before it is written. Raises `CacheFull`, in
        which case nothing has changed.
        """
        self._require(new)
        spans: list[RowSpan] = []
        positions: list[int] = []
        slots: list[int] = []
        start = 0
        for row, count in new.items():
            held = self._rows[row]
            self._own(held, count)
            first = held.length
            held.length += count
            for position in range(first, held.length):
                page = held.pages[position // self.page_size]
                slots.append(page * self.page_size + position % self.page_size)
            positions.extend(range(first, held.length))
            pages, first_slot = self._table(held)
            spans.append(RowSpan(start, start + count, held.length, pages, first_slot))
            start += count
        at = torch.tensor(positions, device=self._device)
        cos, sin = angles(at, self._frequencies, self._rope_factor)
        written = torch.tensor(slots, device=self._device)
        return Layout(tuple(spans), at, written, cos, sin, self.page_size)

    def _table(self, held: _Row) -> tuple[torch.Tensor, int | None]:
        if held.table is None:
            consecutive = all(b == a + 1 for a, b in pairwise(held.pages))
            first_slot = held.pages[0] * self.page_size if consecutive else None
            held.table = torch.tensor(held.pages, device=self._device), first_slot
        return held.table

    def _admit(self, row: _Row) -> int:
        self._rows[self._next_row] = row
        self._next_row += 1
        return self._next_row - 1

    def _needs(self, held: _Row, count: int, left: int = 0) -> tuple[int, bool]:
        """(fresh pages, whether the shared page begun must be copied; `left` of its holders will be gone)."""
        fresh = -(-(held.length + count) // self.page_size) - len(held.pages)
        begun = self._begun(held)
        return max(fresh, 0), begun is not None and self._holders[begun] - left > 1

    def _begun(self, held: _Row) -> int | None:
        """The page that the row's next token goes to, if the row has written to it already."""
        return held.pages[held.length // self.page_size] if held.length % self.page_size else None

    def _require(self, new: Mapping[int, int]) -> None:
        wanted = 0
        left: dict[int | None, int] = {}  # how many holders of a page take a copy of their own in this call
        for row, count in new.items():
            if count < 1:
                raise ValueError(f"a row is extended by at least one token, not {count}")
            held = self._rows[row]
            begun = self._begun(held)
            fresh, copied = self._needs(held, count, left.get(begun, 0))
            left[begun] = left.get(begun, 0) + copied
            wanted += fresh + copied
        if wanted > len(self._free):
            raise CacheFull(f"{wanted} pages wanted, {len(self._free)} free of {len(self._holders)}")

    def _own(self, held: _Row, count: int) -> None:
        fresh, copied = self._needs(held, count)
        if copied:
            place = held.length // self.page_size
            shared, own = held.pages[place], self._take()
            source = slice(shared * self.page_size, (shared + 1) * self.page_size)
            target = slice(own * self.page_size, (own + 1) * self.page_size)
            for layer in self.layers:
                layer.keys[target] = layer.keys[source]
                layer.values[target] = layer.values[source]
            self._release(shared)
            held.pages[place] = own
        if copied or fresh:
            held.table = None
        held.pages.extend(self._take() for _ in range(fresh))

    def _take(self) -> int:
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def _release(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page] == 0:
            self._free.append(page)
