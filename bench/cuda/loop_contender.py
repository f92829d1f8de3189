"""The engine's GPU loop as a contender of decode benchmarks: captured steps, tokens read by the host.

How it runs is what ablations change: `Way`. The engine's own is `AHEAD`.
"""

import time
from enum import Enum

from torch import Tensor

from bench.contender import Filled
from bench.engine_contender import EngineContender
from bench.source import ModelSource
from engine.device_loop import CapturedStep, CapturedSteps, GpuLoop
from engine.rows import Request, Row
from engine.tokenizer import Tokenizer
from kernels import cost
from kernels.cost import RowWork
from kernels.gpu.backend import GpuBackend
from kernels.gpu.decode_step import StepShape

GRAPH_STEPS = 8  # of the arm that takes several in one launch
ROOM = GRAPH_STEPS + 2  # positions beyond those of a sample: steps that ran ahead, and those that wake up


class Way(Enum):
    """AHEAD: the next step is launched before the host waits for the last one's tokens, as the engine does.

    IN_TURN: after. REPLAYED: the host never looks. LAUNCHED: ahead, each kernel launched by itself.
    """

    AHEAD = "ahead"
    IN_TURN = "in turn"
    REPLAYED = "replayed"
    LAUNCHED = "launched"


class LaunchedSteps(CapturedSteps):
    """The same steps without a graph."""

    def of(self, shape: StepShape) -> CapturedStep:
        captured = super().of(shape)
        captured.graphs = {1: captured.step.run}
        return captured


class GpuContender(EngineContender):
    """The backend `gpu` over the source's weights in `scheme`. `dependent` False: no dependent launch.

    `graph_steps`: of every launch, ahead as far as an engine goes where the end is known.
    """

    def __init__(
        self,
        source: ModelSource,
        scheme: str,
        *,
        way: Way = Way.AHEAD,
        dependent: bool = True,
        graph_steps: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(source, "gpu", scheme, name=name, note=f"steps {way.value}")
        assert isinstance(self.model.backend, GpuBackend)
        self.way, self.graph_steps = way, graph_steps
        if not dependent:
            self.model.backend.dependent = False

    def start(self, filled: Filled, steps: int) -> "LoopDecoding":  # type: ignore[override]
        return LoopDecoding(self, filled, steps)

    def captured(self, filled: Filled) -> CapturedSteps:
        """Steps over the pages of `filled`."""
        made = self.model.captured_steps(filled.cache.layers)
        made.graph_steps = self.graph_steps
        return LaunchedSteps(made.parts) if self.way is Way.LAUNCHED else made


class LoopDecoding:
    """See `bench.contender.Decoding`. The host reads the tokens of a step when the next one is under way."""

    def __init__(self, owner: GpuContender, filled: Filled, steps: int) -> None:
        self._filled, self._way, self._at_once = filled, owner.way, owner.graph_steps
        self._dims, self._length = owner.model.dims(), filled.start + 1 + steps
        config = owner.model.config
        request = Request((1,) * (filled.start + 1), steps + ROOM)
        tokenizer = Tokenizer.bytes(max(config.vocab_size, 256))  # nothing is written with it
        limit = filled.start + steps + ROOM
        self._rows = [
            Row(number, row, request, tokenizer, None, limit, config.max_context)
            for number, row in enumerate(filled.ids)
        ]
        self._steps = owner.captured(filled)
        self._loop = self._new_loop(keep_logits=False)
        self._flying = self._asked = 0
        self.tokens: list[tuple[int, ...]] = []  # what the steps since the last rollback chose

    @property
    def note(self) -> str:
        return f"{self._loop.read_once} shared positions read once" if self._loop.read_once else ""

    @property
    def bytes(self) -> float:
        rows, dims, work = self._filled.rows, self._dims, RowWork(1, self._length)
        behind = cost.attention(dims, [RowWork(1, self._length - self._loop.read_once)])
        again_bytes = (cost.attention(dims, [work]).bytes - behind.bytes) * (rows - 1) * dims.n_layers
        return cost.forward(dims, [work] * rows).bytes - again_bytes

    def ready(self) -> None:
        """Anew each time: other arms share the rows, and may have given back the pages held in reserve."""
        if not self._flying:
            self._truncate()
            self._loop.load(self._rows)

    def step(self) -> None:
        if self._asked % self._at_once == 0:
            self._loop.launch(self._at_once)
            self._flying += self._at_once
        self._asked += 1
        if self._way is not Way.REPLAYED and (self._flying > self._at_once or self._way is Way.IN_TURN):
            self._collect()

    def rollback(self) -> None:
        while self._flying:
            self._collect()
        self._truncate()
        self.tokens, self._asked = [], 0
        self._loop.load(self._rows)

    def logits(self) -> Tensor:
        loop = self._new_loop(keep_logits=True)
        loop.load(self._rows)
        loop.launch()
        found = loop.collect().logits
        assert found is not None
        self._truncate()
        return found

    def close(self) -> None:
        """The cache is its maker's."""
        while self._flying:
            self._collect()
        self._truncate()

    def drain(self) -> list[tuple[int, ...]]:
        """Wait for what is under way; the tokens of every step since the last rollback."""
        while self._flying:
            self._collect()
        return self.tokens

    def _new_loop(self, *, keep_logits: bool) -> GpuLoop:
        return GpuLoop(
            self._steps, self._filled.cache, self._rows, clock=time.monotonic, keep_logits=keep_logits
        )

    def _collect(self) -> None:
        self.tokens.append(self._loop.collect().tokens)
        self._flying -= 1

    def _truncate(self) -> None:
        for row in self._filled.ids:
            self._filled.cache.truncate(row, self._filled.start)
