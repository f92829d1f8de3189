"""Decode steps that the device takes on its own: the host reads their tokens, one step late where it may.

While the host reads the tokens of one step, the device is in the next. A row that ends by what it wrote (an
end of sequence, a stop sequence, a policy) has then been fed once too often: that part of the step is booked
as `discarded`, and its position is taken back. Where the end is known beforehand (the token limit) nothing is
launched ahead.

A loop may take several steps in one launch (`DeviceLoop.graph_steps`), which saves what lies between launches
and lets nobody act in between. So it does for rows that no policy steers and that all have as many tokens to
go: a row that ends within a launch has been fed in vain by the rest of it, and the next launch then waits for
its tokens, unless the end is known beforehand. The steps of a launch have equal parts of its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.errors import UsageError
from engine.rows import Row
from engine.steps import Phase
from kernels.api import Backend
from kernels.cost import RowWork

MOST_GRAPH_STEPS = 32  # half of what the device keeps for the host: one launch is read, the next is under way


def check_graph_steps(steps: int, backend: Backend) -> None:
    """Raises `UsageError` for a number of steps that no launch of the backend can take."""
    if not 1 <= steps <= MOST_GRAPH_STEPS:
        raise UsageError(f"graph steps must be 1 to {MOST_GRAPH_STEPS}, not {steps}")
    if steps > 1 and not backend.captures:
        raise UsageError(
            f"{steps} graph steps need captured ones, which the backend gpu has without a profile, and "
            f"{'a profiled one' if backend.name == 'gpu' else backend.name} has not"
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one step chose, in the order of the loaded rows, and when it ran, on the ledger's clock.

    `log_probabilities` of the tokens by the model's own logits. `logits` (B, V) fp32, where they are kept.
    `timed_together`: steps whose times are parts of one.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    begun_s: float
    ended_s: float
    logits: Tensor | None = None
    timed_together: int = 1


class DeviceLoop(Protocol):
    """Steps that follow each other on a device: what one chooses is what the next feeds.

    `graph_steps`: how many one launch may take in place of one.
    """

    graph_steps: int

    def load(self, rows: Sequence[Row]) -> None:
        """From now on steps are about these rows; the cache holds all but the last token of each."""

    def launch(self, steps: int) -> None:
        """Begin 1 or `graph_steps` more, each of which makes every loaded row of the cache a token longer."""

    def collect(self) -> Chosen:
        """Wait for the oldest step that has been launched and not collected."""


class Ahead:
    """The loop of one request. `late`: a step may run beyond the one whose tokens are awaited."""

    def __init__(self, loop: DeviceLoop, cache: KVCache, ledger: Ledger, *, late: bool) -> None:
        self._loop, self._cache, self._ledger, self._late = loop, cache, ledger, late
        self._loaded: tuple[Row, ...] = ()
        self._lengths: list[int] = []  # of the loaded rows, as the device knows them
        self._flying: list[list[RowWork]] = []  # the work of each step under way
        self._at_once = 1  # steps of a launch
        self._end_known = False

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
            self._launch(self._fitting())
        going = [self._follows(row) for row in self._loaded]
        if self._late and all(going) and self._goes_on():
            self._launch(self._fitting())
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
        asked = [row.request for row in rows]
        steered = not self._late or any(request.policies for request in asked)
        self._at_once = 1 if steered else self._loop.graph_steps
        self._end_known = not steered and not any(one.eos_ids or one.stop_sequences for one in asked)

    def _room(self) -> int:
        """Steps that every loaded row can take behind those under way."""
        return min(row.limit - len(row.tokens) for row in self._loaded) - len(self._flying)

    def _fitting(self) -> int:
        """Steps of the next launch."""
        return self._at_once if self._room() >= self._at_once else 1

    def _goes_on(self) -> bool:
        """Whether to launch before the tokens of the step under way are awaited.

        Where only these tell of the end, at most one step is fed in vain by that.
        """
        most = self._at_once if self._end_known else 2 - self._fitting()
        return self._room() > 0 and len(self._flying) <= most

    def _launch(self, steps: int) -> None:
        self._ledger.enter("decode")
        self._loop.launch(steps)
        self._lengths = [self._cache.length(row.cache_row) for row in self._loaded]
        for behind in reversed(range(steps)):
            self._flying.append([RowWork(1, length - behind) for length in self._lengths])

    def _collect(self, going: Sequence[bool]) -> None:
        chosen = self._loop.collect()
        fed_a_token = [self._fed(row) < len(row.tokens) for row in self._loaded]
        work = self._flying.pop(0)
        if not self._flying:
            self._ledger.enter("idle")
        wanted = [row.ended is None and fed_a_token[i] for i, row in enumerate(self._loaded)]
        shares = [
            Share(row.number, row.phase if used else Phase.DISCARDED, 1)
            for row, used in zip(self._loaded, wanted, strict=True)
        ]
        self._ledger.record(
            "decode", chosen.begun_s, chosen.ended_s, shares, work, together=chosen.timed_together
        )
        for index, row in enumerate(self._loaded):
            if going[index]:
                row.chosen, row.last_forward = chosen.tokens[index], len(self._ledger.marks) - 1
                row.log_probability = chosen.log_probabilities[index]
                row.logits = None if chosen.logits is None else chosen.logits[index]
            elif not wanted[index]:
                self._ledger.count(Phase.DISCARDED, 1)
                self._cache.truncate(row.cache_row, self._cache.length(row.cache_row) - 1)

    def _follows(self, row: Row) -> bool:
        """Whether the oldest step under way fed the row's last token, so that what it chooses comes next."""
        return row.ended is None and self._fed(row) == len(row.tokens) - 1

    def _fed(self, row: Row) -> int:
        """The position of the row that the oldest step under way fed."""
        return self._cache.length(row.cache_row) - len(self._flying)
