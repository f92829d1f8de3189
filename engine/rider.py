"""A probe that rides along: one more row of the steps that its row takes anyway; weights are read once.

A rider is a fork of its row's cache. With the row's next step it feeds what the row feeds and the probe's
text behind that, and with every further step the token it read last. Its row computes bit for bit what it
does alone, which takes a backend that promises so (`Backend.batch_invariant_tokens`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.probe import asked_tokens, is_read, reading
from engine.rows import Row
from engine.steps import Phase, Probe, ProbeReading, Step, StopPolicy
from engine.tokenizer import Tokenizer
from kernels.cost import RowWork


@dataclass(slots=True)
class Rider:
    """One probe under way. `feeds`: its tokens of the next step; `read`: what it has read.

    `phase`: the row's when it was asked, beyond which nobody wants to know.
    """

    row: Row
    step: Step
    policies: Sequence[StopPolicy]
    probe: Probe
    phase: Phase
    cache_row: int
    feeds: list[int]
    read: list[int] = field(default_factory=list)
    first: Tensor | None = None
    energy_j: float = 0.0


class Riders:
    """The riders of a request. `tokens`: the most new tokens of a forward with them; 0: nobody rides."""

    def __init__(self, cache: KVCache, tokenizer: Tokenizer, tokens: int) -> None:
        self._cache, self._tokenizer, self._tokens = cache, tokenizer, tokens
        self._riding: list[Rider] = []
        self.aboard: list[Rider] = []  # those in the next step

    def admit(
        self, rows: Sequence[Row], row: Row, step: Step, policies: Sequence[StopPolicy], probe: Probe
    ) -> bool:
        """Whether `probe` rides with the next step of `rows`; else it has to be read alone."""
        if not self._tokens:
            return False
        asked = asked_tokens(probe, row, self._tokenizer)
        lacking = row.tokens[self._cache.length(row.cache_row) :]
        taken = self._lacking(rows) + sum(len(rider.feeds) for rider in self._riding)
        if not asked or taken + len(lacking) + len(asked) > self._tokens:
            return False
        fork = self._cache.fork(row.cache_row)
        self._riding.append(Rider(row, step, policies, probe, row.phase, fork, [*lacking, *asked]))
        return True

    def board(self, rows: Sequence[Row]) -> None:
        """Decide who takes part in the next step of `rows`: those still wanted, as far as they fit."""
        self.aboard = []
        if not self._riding:
            return
        for rider in [rider for rider in self._riding if not _is_wanted(rider)]:
            self._leave(rider)
        room = self._tokens - self._lacking(rows)
        for rider in self._riding:
            if len(rider.feeds) <= room:
                room -= len(rider.feeds)
                self.aboard.append(rider)

    def shares(self) -> Iterator[tuple[int, list[int], Share, RowWork]]:
        """(cache row, tokens, share of the step, work) of everyone aboard."""
        for rider in self.aboard:
            count = len(rider.feeds)
            work = RowWork(count, self._cache.length(rider.cache_row) + count)
            yield rider.cache_row, rider.feeds, Share(rider.row.number, Phase.PROBE, count), work

    def hear(self, logits: Tensor, joules: Sequence[float]) -> None:
        """The step is over: `logits` (riders aboard, V) and the J of each rider's part in it."""
        for rider, found, energy_j in zip(self.aboard, logits, joules, strict=True):
            rider.read.append(int(found.argmax()))
            rider.first = found if rider.first is None else rider.first
            rider.feeds, rider.energy_j = [rider.read[-1]], rider.energy_j + energy_j
        self.aboard = []

    def arrivals(self) -> Iterator[tuple[Rider, ProbeReading]]:
        """Those that have read all they were asked to; they are gone afterwards."""
        for rider in [
            rider for rider in self._riding if rider.read and is_read(rider.probe, rider.row, rider.read)
        ]:
            self._leave(rider)
            assert rider.first is not None
            found = reading(rider.probe, rider.row, self._tokenizer, rider.read, rider.first, rider.energy_j)
            if _is_wanted(rider):
                yield rider, found

    def _leave(self, rider: Rider) -> None:
        self._riding.remove(rider)
        self._cache.free(rider.cache_row)

    def _lacking(self, rows: Sequence[Row]) -> int:
        return sum(len(row.tokens) - self._cache.length(row.cache_row) for row in rows)


def _is_wanted(rider: Rider) -> bool:
    """Whether the reading can still matter: the row goes on in the phase in which it was asked."""
    return rider.row.ended is None and rider.row.phase is rider.phase
