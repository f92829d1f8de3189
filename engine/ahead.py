"""Decode steps that the device takes on its own: the host reads their tokens, one step late where it may.

While the host reads the tokens of one step, the device is in the next. A row that ends by what it wrote (an
end of sequence, a stop sequence, a policy) has then been fed once too often: that part of the step is booked
as `discarded`, and its position is taken back. Where the end is known beforehand (the token limit) nothing is
launched ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.rows import Row
from engine.steps import Phase
from kernels.cost import RowWork


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one step chose, in the order of the loaded rows, and when it ran, on the ledger's clock.

    `logits` (B, V) fp32, where they are kept.
    """

    tokens: tuple[int, ...]
    begun_s: float
    ended_s: float
    logits: Tensor | None = None


class DeviceLoop(Protocol):
    """Steps that follow each other on a device: what one chooses is what the next feeds."""

    def load(self, rows: Sequence[Row]) -> None:
        """From now on steps are about these rows; the cache holds all but the last token of each."""

    def launch(self) -> None:
        """Begin one more step, which makes every loaded row of the cache one token longer."""

    def collect(self) -> Chosen:
        """Wait for the oldest step that has been launched and not collected."""


class Ahead:
    """The loop of one request. `late`: a step may run beyond the one whose tokens are awaited."""

    def __init__(self, loop: DeviceLoop, cache: KVCache, ledger: Ledger, *, late: bool) -> None:
        self._loop, self._cache, self._ledger, self._late = loop, cache, ledger, late
        self._loaded: tuple[Row, ...] = ()
        self._lengths: list[int] = []  # of the loaded rows, as the device knows them
        self._flying: list[list[RowWork]] = []

    @property
    def is_busy(self) -> bool:
        """Whether a step is under way."""
        return bool(self._flying)

    def next(self, rows: Sequence[Row]) -> None:
        """Set `chosen` of every row that goes on from where the device is.

        Rows that do not (tokens were injected) keep None, and need a forward of their own. Unless a step is
        under way the cache must hold all but the last token of every row.
        """
        if not self._flying:
            self._load(rows)
            self._launch()
        going = [self._follows(row) for row in self._loaded]
        if self._late and all(going) and all(len(row.tokens) + 1 < row.limit for row in self._loaded):
            self._launch()
        self._collect(going)

    def drain(self) -> None:
        """Wait for what is under way; nobody wants its tokens."""
        while self._flying:
            self._collect([False] * len(self._loaded))

    def _load(self, rows: Sequence[Row]) -> None:
        lengths = [self._cache.length(row.cache_row) for row in rows]
        if tuple(rows) != self._loaded or lengths != self._lengths:
            self._loop.load(rows)
            self._loaded = tuple(rows)

    def _launch(self) -> None:
        self._ledger.enter("decode")
        self._loop.launch()
        self._lengths = [self._cache.length(row.cache_row) for row in self._loaded]
        self._flying.append([RowWork(1, length) for length in self._lengths])

    def _collect(self, going: Sequence[bool]) -> None:
        chosen = self._loop.collect()
        work = self._flying.pop(0)
        if not self._flying:
            self._ledger.enter("idle")
        wanted = [going[i] or row.ended is None for i, row in enumerate(self._loaded)]
        shares = [
            Share(row.number, row.phase if used else Phase.DISCARDED, 1)
            for row, used in zip(self._loaded, wanted, strict=True)
        ]
        self._ledger.record("decode", chosen.begun_s, chosen.ended_s, shares, work)
        for index, row in enumerate(self._loaded):
            if going[index]:
                row.chosen, row.last_forward = chosen.tokens[index], len(self._ledger.marks) - 1
                row.logits = None if chosen.logits is None else chosen.logits[index]
            elif not wanted[index]:
                self._ledger.count(Phase.DISCARDED, 1)
                self._cache.truncate(row.cache_row, self._cache.length(row.cache_row) - 1)

    def _follows(self, row: Row) -> bool:
        """Whether the step under way has fed the row's last token, so that what it chooses comes next."""
        return row.ended is None and self._cache.length(row.cache_row) == len(row.tokens)
