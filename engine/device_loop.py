"""Decoding on the GPU: captured steps, launched ahead of the host, their tokens read late.

A captured step is fixed to a number of rows, a length and a kind of sampling. It is captured before a request
begins and kept for later ones, over a pool of pages that outlives requests: capturing takes time and joules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from engine.ahead import MOST_GRAPH_STEPS, Chosen
from engine.cache import KVCache
from engine.rows import Row
from engine.sampler import Sampling
from kernels.gpu.captured import Captured, DeviceClock
from kernels.gpu.decode_step import DecodeStep, Parts, StepShape
from kernels.gpu.host_ring import HostRing
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.shared_prefix import pays

MOST_ROWS = 16  # that the decode kernels take
FEWEST_PAGES = 64  # of a row that a step is captured for


class CapturedStep:
    """A step, its graph, that of `graph_steps` of it in a row, and where the host reads what they chose."""

    def __init__(self, parts: Parts, shape: StepShape, graph_steps: int = 1) -> None:
        self.step = DecodeStep(parts, shape)
        self.graphs: dict[int, Callable[[], None]] = {
            steps: Captured(partial(_in_a_row, self.step, steps), parts.backend.device)
            for steps in {1, graph_steps}
        }
        self.ring = HostRing(self.step.state.ring)
        kept = len(self.step.state.ring)
        assert kept >= 2 * MOST_GRAPH_STEPS, "what is read must outlast what is under way"

    def launch(self, steps: int = 1) -> None:
        """Begin `steps`, for which there is a graph."""
        self.graphs[steps]()


def _in_a_row(step: DecodeStep, steps: int) -> None:
    for _ in range(steps):
        step.run()


class CapturedSteps:
    """The captured steps of one model over one pool of pages; `graph_steps` of them also as one graph."""

    def __init__(self, parts: Parts, *, graph_steps: int = 1) -> None:
        self.parts, self.graph_steps = parts, graph_steps
        self._kept: dict[StepShape, CapturedStep] = {}

    @property
    def pages(self) -> int:
        """Of the pool."""
        return len(self.parts.caches[0].keys) // self.parts.page_size

    def of(self, shape: StepShape) -> CapturedStep:
        """Captured on first use."""
        if shape not in self._kept:
            self._kept[shape] = CapturedStep(self.parts, shape, self.graph_steps)
        return self._kept[shape]


@dataclass(slots=True)
class _Launch:
    """Steps from number `first` on, `told` of which were collected; `begun` None: behind what came before."""

    first: int
    steps: int
    begun: "torch.cuda.Event | float | None"
    ended: "torch.cuda.Event | float"
    told: int = 0


class GpuLoop:
    """See `engine.ahead.DeviceLoop`. What as many as `rows` take is captured now; more are never loaded.

    Rows that have ended rest in their places until half of the places do, and a smaller step takes over.
    Rows that are forks of one when the loop is made, or will share a `prefix`, read what they share once for
    all, in every size of step where that pays. What a row computes then depends on the others in its last
    bits; elsewhere it does not.
    """

    def __init__(
        self,
        steps: CapturedSteps,
        cache: KVCache,
        rows: Sequence[Row],
        *,
        clock: Callable[[], float],
        keep_logits: bool,
        prefix: int | None = None,
    ) -> None:
        self._steps, self._cache, self._keep_logits = steps, cache, keep_logits
        self.graph_steps = steps.graph_steps
        self._shape = StepShape(
            rows=_power_of_two(len(rows)),
            pages=max(_power_of_two(-(-max(row.limit for row in rows) // cache.page_size)), FEWEST_PAGES),
            kind=max(_kind(row.request.sampling) for row in rows),
            penalised=any(row.request.sampling.repetition_penalty != 1 for row in rows),
        )
        self._prefix = cache.shared([row.cache_row for row in rows]) if prefix is None else prefix
        for power in range(self._shape.rows.bit_length()):
            steps.of(self._sized(1 << power))
        self._clock = DeviceClock(steps.parts.backend.device, clock)
        self._rows: tuple[Row, ...] = ()
        self._flying: list[_Launch] = []
        self._launched, self._ended_s = 0, 0.0

    def load(self, rows: Sequence[Row]) -> None:
        assert not self._flying, "rows are loaded while a step is under way"
        self._rows, self._launched = tuple(rows), 0
        self._cache.reserve({row.cache_row: row.limit - self._cache.length(row.cache_row) for row in rows})
        shape = self._sized(_power_of_two(len(rows)))
        self._captured = self._steps.of(shape)
        self._captured.step.load(
            tokens=[row.tokens[-1] for row in rows],
            positions=[len(row.tokens) - 1 for row in rows],
            pages=[self._cache.pages(row.cache_row) for row in rows],
            prefix=self._cache.shared([row.cache_row for row in rows]) if shape.shared else 0,
        )
        for place, row in enumerate(rows):
            _select_as(self._captured.step.selection, row, place)

    @property
    def read_once(self) -> int:
        """How many first positions the loaded rows read once for all."""
        prefix = self._captured.step.rows.prefix
        return 0 if prefix is None else int(prefix)

    def launch(self, steps: int = 1) -> None:
        begun = None if self._flying else self._clock.mark()
        self._captured.launch(steps)
        self._flying.append(_Launch(self._launched, steps, begun, self._clock.mark()))
        for _ in range(steps):
            self._captured.ring.send(self._launched)
            self._launched += 1
            for row in self._rows:
                self._cache.advance(row.cache_row)

    def collect(self) -> Chosen:
        launch = self._flying[0]  # still to be collected where Ctrl-C ends the wait
        chosen = self._captured.ring.receive(launch.first + launch.told)
        count = len(self._rows)
        tokens, scores = chosen.tokens[:count], (chosen.logits - chosen.logsumexp)[:count]
        begun_s = self._ended_s
        if launch.begun is not None and not launch.told:
            begun_s = self._clock.seconds(launch.begun)
        left_s = self._clock.seconds(launch.ended) - begun_s
        # Of the latest step: whoever asks for logits lets none run ahead.
        logits = self._captured.step.logits[:count].clone() if self._keep_logits else None
        self._ended_s = begun_s + left_s / (launch.steps - launch.told)
        launch.told += 1
        if launch.told == launch.steps:
            del self._flying[0]
        told = tuple(tokens.tolist()), tuple(scores.tolist())
        return Chosen(*told, begun_s, self._ended_s, logits, launch.steps)

    def _sized(self, rows: int) -> StepShape:
        parts = self._steps.parts
        shared = pays(rows, self._prefix, parts.layers[0].shape, parts.caches[0].keys.dtype)
        return replace(self._shape, rows=rows, shared=shared)


def _select_as(selection: Selection, row: Row, place: int) -> None:
    asked = row.request.sampling
    selection.set_row(
        place,
        stream=row.number,
        seed=asked.seed,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        seen=row.tokens,
    )


def _kind(sampling: Sampling) -> Kind:
    return Kind.needed(sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << (number - 1).bit_length()
