"""A device loop without a device: steps are computed when they are launched, and told when asked for."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from engine.ahead import Chosen
from engine.cache import KVCache
from engine.engine import Engine
from engine.model import Model
from engine.rows import Row
from engine.sampler import sample


class LateLoop:
    """Runs any backend as a device would run itself: it hears of rows when they are loaded, not again.

    `launched`: the tokens fed by every step; `sizes`: the steps of every launch, `most_waiting` of them
    told of at once. `fails_at`: the number of the step whose result never comes.
    """

    graph_steps = 1

    def __init__(self, model: Model, cache: KVCache, *, keep_logits: bool) -> None:
        self.model, self.cache, self.keep_logits = model, cache, keep_logits
        self.launched: list[list[int]] = []
        self.sizes: list[int] = []
        self.most_waiting = 0
        self.loads = 0
        self.fails_at: int | None = None
        self.rows_of_request: list[Row] = []
        self._rows: list[tuple[int, Any, int, list[int]]] = []
        self._waiting: list[Chosen] = []

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def load(self, rows: Sequence[Row]) -> None:
        assert not self._waiting
        self.loads += 1
        self.rows_of_request = self.rows_of_request or list(rows)
        self._rows = [(r.cache_row, r.request.sampling, r.number, list(r.tokens)) for r in rows]

    def launch(self, steps: int) -> None:
        assert steps in (1, self.graph_steps)
        self.sizes.append(steps)
        for _ in range(steps):
            self._step(steps)

    def _step(self, together: int) -> None:
        begun_s = time.monotonic()
        fed = [tokens[-1] for _, _, _, tokens in self._rows]
        layout = self.cache.extend({cache_row: 1 for cache_row, _, _, _ in self._rows})
        assert [int(p) + 1 for p in layout.positions] == [len(tokens) for _, _, _, tokens in self._rows]
        logits, _ = self.model.forward(fed, layout, self.cache)
        for index, (_, sampling, number, tokens) in enumerate(self._rows):
            place = len(tokens)
            tokens.append(sample(logits[index], sampling, seen=tokens, row=number, position=place))
        self.launched.append(fed)
        chosen = tuple(tokens[-1] for _, _, _, tokens in self._rows)
        kept = logits if self.keep_logits else None
        scores = tuple(float(row[token]) for row, token in zip(logits.log_softmax(-1), chosen, strict=True))
        self._waiting.append(Chosen(chosen, scores, begun_s, time.monotonic(), kept, together))
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def collect(self) -> Chosen:
        if self.fails_at is not None and len(self.launched) >= self.fails_at:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nsecond line")
        return self._waiting.pop(0)


def run_late(engine: Engine, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[LateLoop]:
    """From now on the engine's requests run through such loops, kept in the list that is returned."""
    made: list[LateLoop] = []

    def device_loop(cache: KVCache, rows: Any, *, clock: Any, keep_logits: bool, prefix: int) -> LateLoop:
        made.append(LateLoop(engine.model, cache, keep_logits=keep_logits))
        for name, value in settings.items():
            setattr(made[-1], name, value)
        return made[-1]

    monkeypatch.setattr(engine.model, "device_loop", device_loop)
    return made
