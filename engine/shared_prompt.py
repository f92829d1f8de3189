"""The prompts of a request: each is computed once, and the rows that begin with it fork what it left.

A prompt that is shared keeps a cache row that nothing is added to, so that a row of a later wave finds it as
the first ones did. Its joules are the request's: the rows that begin when it is computed carry equal parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.model import Model
from engine.prefilled import Prefilled, Reading
from engine.rows import Request, Row
from engine.steps import Phase
from kernels.api import Layout
from kernels.cost import RowWork

PREFILL_CHUNK = 2048  # tokens of one prompt per forward: bounds activations and attention masks
READING_CHUNK = 256  # where every position has logits: 131 MB of them with Llama 3's vocabulary


class Choose(Protocol):
    """Sets the next token of each row, from logits (B, V) and hidden states {layer: (B, E)} of its last."""

    def __call__(
        self, rows: Sequence[Row], logits: Tensor, hidden: Mapping[int, Tensor], *, forward: int | None
    ) -> None: ...


@dataclass(slots=True)
class SharedPrompt:
    """`rows` begin with the same tokens, one row or more; `cache_row` holds these.

    Until a row begins it has no cache row of its own. `logits` (1, V) and `hidden` {layer: (1, E)} are those
    of the last token, once it was computed.
    """

    rows: list[Row]
    cache_row: int
    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)


def by_prompt(requests: Sequence[Request], *, share: bool) -> list[list[int]]:
    """Numbers of the requests with the same prompt, in order of their first; unless `share`, each alone."""
    groups: dict[object, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(request.prompt_ids if share else number, []).append(number)
    return list(groups.values())


class Prompts:
    """Computes prompts, and has rows begin, `at_once` of them and then as many again.

    `groups`: the rows of each prompt, by number. `taps`: layers whose states are wanted.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        ledger: Ledger,
        rows: Sequence[Row],
        groups: Sequence[Sequence[int]],
        choose: Choose,
        *,
        taps: frozenset[int],
        at_once: int,
    ) -> None:
        self._model, self._cache, self._ledger, self._rows = model, cache, ledger, rows
        self._choose, self._taps, self._at_once = choose, taps, at_once
        self._prompts = [
            SharedPrompt([rows[number] for number in group], cache.add_row()) for group in groups
        ]
        self.known: Prefilled | None = None  # what prompts may begin with
        self.reading: Reading | None = None  # wants to hear of every position

    @property
    def first_wave(self) -> Sequence[Row]:
        return self._rows[: self._at_once]

    @property
    def waiting(self) -> list[Row]:
        """Rows that have not begun."""
        return [row for row in self._rows if not row.begun and row.ended is None]

    @property
    def in_common(self) -> int:
        """How many first positions all rows will have in the same pages: whole ones, as they write on."""
        if len(self._prompts) > 1 or len(self._rows) < 2:
            return 0
        return len(self._rows[0].request.prompt_ids) // self._cache.page_size * self._cache.page_size

    def compute(self) -> float:
        """All prompts; the rows of the first wave begin. Returns seconds."""
        return sum(self._compute(prompt) for prompt in self._prompts)

    def next_wave(self) -> None:
        """The rows that wait longest begin."""
        wave = {row.number for row in self.waiting[: self._at_once]}
        for prompt in self._prompts:
            self._begin(prompt, [row for row in prompt.rows if row.number in wave])

    def _compute(self, prompt: SharedPrompt) -> float:
        beginning = [row for row in prompt.rows if row.number < self._at_once]
        carried_by = beginning or prompt.rows[:1]
        ids, elapsed_s = prompt.rows[0].request.prompt_ids, 0.0
        chunk, done = PREFILL_CHUNK if self.reading is None else READING_CHUNK, self._recall(prompt, ids)
        if done == len(ids):
            self._begin(prompt, beginning)
        for start in range(done, len(ids), chunk):
            fed = ids[start : start + chunk]
            upto = start + len(fed)
            self._ledger.begin("prefill", [RowWork(len(fed), upto)])
            layout = self._cache.extend({prompt.cache_row: len(fed)})
            prompt.logits, prompt.hidden = self._forward(fed, layout)
            if upto == len(ids):
                if self.reading is not None:
                    self.reading.keep(self._cache, prompt.cache_row)
                self._begin(prompt, beginning)
            elapsed_s += self._ledger.end([Share(row.number, Phase.PREFILL, len(fed)) for row in carried_by])
        self._ledger.count(Phase.PREFILL, len(ids) - done)
        return elapsed_s

    def _recall(self, prompt: SharedPrompt, ids: Sequence[int]) -> int:
        """How many of the prompt's tokens are in its cache row, as they were read before."""
        if self.known is None or not (count := self.known.in_common(ids)):
            return 0
        if count == len(ids) and (count < len(self.known.token_ids) or self._taps):
            count -= 1  # what stands behind its last token is not among what was kept
        if count == len(ids):
            prompt.logits = self.known.logits[None]
        if count:
            self.known.write(self._cache, prompt.cache_row, count)
        return count

    def _forward(self, fed: Sequence[int], layout: Layout) -> tuple[Tensor, dict[int, Tensor]]:
        if self.reading is None:
            return self._model.forward(fed, layout, self._cache, taps=self._taps)
        taps, every = self._taps | self.reading.layers, range(len(fed))
        logits, hidden = self._model.forward(fed, layout, self._cache, taps=taps, of=every)
        self.reading.add(fed, logits, hidden)
        return logits[-1:], {layer: hidden[layer][-1:] for layer in self._taps}

    def _begin(self, prompt: SharedPrompt, rows: Sequence[Row]) -> None:
        """These rows go on from their prompt: each chooses its first token, with its own random numbers."""
        if not rows:
            return
        assert prompt.logits is not None
        for row in rows:
            row.begun = True
            alone = len(prompt.rows) == 1
            row.cache_row = prompt.cache_row if alone else self._cache.fork(prompt.cache_row)
        hidden = {layer: states.expand(len(rows), -1) for layer, states in prompt.hidden.items()}
        self._choose(rows, prompt.logits.expand(len(rows), -1), hidden, forward=None)
