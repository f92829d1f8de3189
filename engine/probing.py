"""The probes of one request: who asked for them, who rides with whose step, and what was read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.cache import KVCache
from engine.energy.ledger import Ledger
from engine.energy.row_parts import row_parts
from engine.errors import TokenjouleError
from engine.model import Model
from engine.probe import PIGGYBACK, TRUNCATE, merged, run_probe
from engine.rider import Riders
from engine.rows import Row
from engine.steps import Phase, Probe, ProbeReading, Step, StopPolicy
from engine.stop.base import name_of
from engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Asked:
    """One probe, and the policies that asked for it at `step`."""

    row: Row
    step: Step
    policies: tuple[StopPolicy, ...]
    probe: Probe


class Probing:
    """`mode`: how probes are read, and why not as asked where the backend cannot.

    A step of the loop goes `ask` … `board`, the forward with `riders` in it, `hear`, `readings`.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, cache: KVCache, ledger: Ledger, mode: str, *, wanted: bool
    ) -> None:
        self._model, self._tokenizer, self._cache, self._ledger = model, tokenizer, cache, ledger
        self._asked: list[Asked] = []
        self.mode, tokens = mode, 0
        if mode == PIGGYBACK and wanted:
            tokens = model.backend.batch_invariant_tokens
            if not tokens:
                self.mode = f"{TRUNCATE}: rows of the {model.backend.name} backend change with their number"
        self.riders = Riders(cache, tokenizer, tokens)

    def ask(self, row: Row, step: Step, policy: StopPolicy, probe: Probe) -> None:
        """Have `probe` read when the row's cache holds the token of `step`, once for all who ask the same."""
        if "probe" not in policy.needs:
            raise TokenjouleError(f'policy {name_of(policy)} probes, but "probe" is not in its needs')
        if probe.text is None and row.marks is not None and row.phase is not Phase.THINK:
            return  # it answers already: behind a closer there is no answer to another
        for number, other in enumerate(self._asked):
            both = merged(other.probe, probe) if other.row is row else None
            if both is not None:
                self._asked[number] = Asked(row, step, (*other.policies, policy), both)
                return
        self._asked.append(Asked(row, step, (policy,), probe))

    def board(self, rows: Sequence[Row]) -> None:
        """Have the probes that fit ride with the next step of `rows`; the others are read behind it."""
        self._asked = [
            asked
            for asked in self._asked
            if asked.row.ended is None
            and not self.riders.admit(rows, asked.row, asked.step, asked.policies, asked.probe)
        ]
        self.riders.board(rows)

    def hear(self, logits: Tensor, step_j: float) -> None:
        """What the step just taken chose for the riders (riders, V), and what it cost."""
        mark, count = self._ledger.marks[-1], len(logits)
        parts = row_parts(mark, self._model.dims())[-count:]
        self._ledger.count(Phase.PROBE, sum(share.tokens for share in mark.shares[-count:]))
        self.riders.hear(logits, [step_j * part for part in parts])

    def readings(self) -> Iterator[tuple[Row, Step, Sequence[StopPolicy], ProbeReading]]:
        """All that can be told now; every row's cache holds all of the row."""
        waiting, self._asked = self._asked, []
        for asked in waiting:
            row = asked.row
            # An earlier reading may have ended the row, or closed its thinking with tokens not fed yet.
            if row.ended is None and self._cache.length(row.cache_row) == len(row.tokens):
                found = run_probe(self._model, self._tokenizer, self._cache, self._ledger, row, asked.probe)
                if found is not None:
                    row.probes += 1
                    yield row, asked.step, asked.policies, found
        for rider, found in self.riders.arrivals():
            rider.row.probes, rider.row.ridden = rider.row.probes + 1, rider.row.ridden + 1
            yield rider.row, rider.step, rider.policies, found
