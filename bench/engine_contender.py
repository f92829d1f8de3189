"""Our own engine as an arm of `bench.decode`: one backend over one set of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.contender import Filled, best_threads, fill
from bench.record import Arm
from bench.source import ModelSource
from engine.model import Model
from kernels import cost
from kernels.api import load
from kernels.cost import RowWork


class EngineContender:
    """`backend` over the source's weights in `scheme`. torch's threads: as `Engine.load` sets them."""

    def __init__(
        self, source: ModelSource, backend: str, scheme: str, *, name: str | None = None, note: str = ""
    ) -> None:
        chosen = load(backend, source.device)
        self.model = Model(source.config, source.scheme_weights(scheme), chosen)
        own = getattr(chosen, "threads", None)
        if own is None and source.device.type == "cpu" and not chosen.captures:
            decoding = self.start(fill(source.config, source.dtype, 1, 8), 1)
            own = best_threads(decoding.step, torch.set_num_threads)
        self.threads: int | None = own
        self.arm = Arm(
            name=name or f"{backend} {scheme}",
            engine="tokenjoule",
            backend=backend,
            quantization=scheme,
            dtype=str(self.model.dtype).removeprefix("torch."),
            threads=own,
            note=note,
        )

    def start(self, filled: Filled, steps: int) -> "EngineDecoding":
        return EngineDecoding(self, filled, steps)

    def ready(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def prefill(self, tokens: Sequence[int]) -> Tensor:
        cache = self.model.new_cache(len(tokens))
        layout = cache.extend({cache.add_row(): len(tokens)})
        return self.model.forward(tokens, layout, cache)[0][0]

    def close(self) -> None:
        """The weights go with the source."""


class EngineDecoding:
    """See `bench.contender.Decoding`."""

    note = ""

    def __init__(self, owner: EngineContender, filled: Filled, steps: int) -> None:
        self._owner, self._filled = owner, filled
        work = [RowWork(1, filled.start + 1 + steps)] * filled.rows
        self.bytes = cost.forward(owner.model.dims(), work).bytes
        self._tokens = [1] * filled.rows

    def ready(self) -> None:
        self._owner.ready()

    def step(self) -> None:
        self._tokens = self._forward().argmax(-1).tolist()

    def rollback(self) -> None:
        for row in self._filled.ids:
            self._filled.cache.truncate(row, self._filled.start)
        self._tokens = [1] * self._filled.rows

    def logits(self) -> Tensor:
        found = self._forward()
        self.rollback()
        return found

    def close(self) -> None:
        """The cache is its maker's."""

    def _forward(self) -> Tensor:
        cache = self._filled.cache
        layout = cache.extend(dict.fromkeys(self._filled.ids, 1))
        return self._owner.model.forward(self._tokens, layout, cache)[0]
