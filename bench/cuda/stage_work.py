"""The decode kernels of one stage as things to be checked and timed: copies of what they read, and answers.

Stages are those of `kernels.gpu`; their work is counted by `kernels.cost`. A stage goes round as many copies
of its matrix, or of its cache, as exceed the last-level cache three times: it finds them cold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from bench.contender import fill
from bench.stages import COLD, TOLERANCES, Subject, clone
from engine.model import PAGE_SIZE
from engine.rope import angles, inverse_frequencies
from kernels.api import HeadWeights, LayerCache, LayerWeights, Layout
from kernels.cost import Cost
from kernels.gpu.attention import decode_attention
from kernels.gpu.attention_input import NormScratch, attention_input
from kernels.gpu.attention_output import attention_output
from kernels.gpu.attention_scratch import AttentionScratch
from kernels.gpu.backend import GpuBackend, PreparedHead
from kernels.gpu.head import head_logits, head_select
from kernels.gpu.head_scratch import HeadScratch
from kernels.gpu.mlp import down, gate_up
from kernels.gpu.rows import Rows
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import StepState
from kernels.gpu.stream import Stream, begin
from kernels.gpu.weights import GpuLayer
from kernels.quantize import Matrix, Quantized, dequantize
from kernels.reference import TorchBackend

STAGES = ("attention_input", "attention", "attention_output", "gate_up", "down", "head_logits", "head_select")
# Of the layer or the head.
READ = {
    "attention_input": "qkv",
    "attention_output": "output",
    "gate_up": "gate_up",
    "down": "down",
    "head_logits": "weight",
    "head_select": "weight",
}
# Of what `kernels.cost.mlp` counts: it takes all three matrices, which are of one size.
PART_OF_MLP = {"gate_up": 2 / 3, "down": 1 / 3}
MOST_COPIES = 200


@dataclass(frozen=True, slots=True)
class StageWork:
    """`call(i)` runs the stage on copy i; `answer()` what a call left, `expected()` the reference's, fp32.

    Peers take what is here: `matrices`, `vectors` (B, C) for products; `q`, `caches`, `layout` for attention.
    """

    call: Callable[[int], object]
    answer: Callable[[], Tensor]
    expected: Callable[[], Tensor]
    copies: int
    cost: Cost
    matrices: list[Matrix] = field(default_factory=list)
    vectors: Tensor | None = None
    q: Tensor | None = None
    caches: list[LayerCache] = field(default_factory=list)
    layout: Layout | None = None

    @property
    def share(self) -> float:
        """Of the largest number that an answer may be off by: both sides round in bf16 after every step."""
        return TOLERANCES[torch.bfloat16]


def stage_cost(given: Subject, stage: str, rows: int, context: int) -> Cost:
    """Of one call."""
    if stage in PART_OF_MLP:
        return given.cost("mlp", rows, context).times(PART_OF_MLP[stage])
    return given.cost("head_logits" if stage == "head_select" else stage, rows, context)


def copies_of(cost: Cost, cache_bytes: int) -> int:
    """How many copies exceed the cache `COLD` times over, two at the least."""
    return max(2, min(MOST_COPIES, math.ceil(COLD * cache_bytes / max(cost.bytes, 1.0))))


def stage_work(
    backend: GpuBackend, given: Subject, stage: str, rows: int, context: int, *, cache_bytes: int
) -> StageWork:
    """The stage of `given`, whose weights are on the backend's device, for rows of `context` positions.

    Raises `ValueError` for a stage that there is not.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(STAGES)}")
    bench = _Bench(backend, given, stage, rows, context, cache_bytes)
    return bench.work()


class _Bench:
    """Inputs of every stage of one layer, alike for ours and for the reference."""

    def __init__(
        self, backend: GpuBackend, given: Subject, stage: str, rows: int, context: int, cache_bytes: int
    ) -> None:
        config, device = given.config, backend.device
        self.backend, self.given, self.stage, self.batch = backend, given, stage, rows
        self.cost = stage_cost(given, stage, rows, context)
        self.copies = copies_of(self.cost, cache_bytes)
        self.eps, self.shape = config.norm_eps, config.attention_shape(0)
        caches = self.copies if stage == "attention" else 1
        held = fill(replace(config, n_layers=caches), given.dtype, rows, context - 1, device=device)
        self.layout = held.cache.extend(dict.fromkeys(held.ids, 1))
        self.caches = list(held.cache.layers)
        frequencies, factor = inverse_frequencies(config.rope, config.head_dim)
        cos, sin = angles(torch.arange(context, device=device), frequencies.to(device), factor)
        pages = torch.stack([row.pages for row in self.layout.rows]).to(torch.int32)
        self.rows = Rows(self.layout.positions.to(torch.int32), pages, cos, sin, PAGE_SIZE)
        draw = torch.Generator().manual_seed(rows)

        def randn(*size: int) -> Tensor:
            return torch.randn(*size, generator=draw).to(device, torch.bfloat16)

        self.x = randn(rows, config.hidden_size)
        self.q = randn(rows, config.n_heads, config.head_dim)
        self.hidden = randn(rows, config.intermediate_size)
        self.reference = TorchBackend(device)

    def work(self) -> StageWork:
        if self.stage == "attention":
            return self._attention()
        if self.stage in ("head_logits", "head_select"):
            return self._head()
        return self._layer()

    def _stream(self, gain: Tensor) -> Stream:
        stream = Stream.make(self.batch, self.x.shape[1], torch.bfloat16, self.backend.device)
        begin(self.x, gain, stream, dependent=False)
        return stream

    def _layer(self) -> StageWork:
        backend, stage, weights = self.backend, self.stage, self.given.layer
        dependent, name = backend.dependent, READ[stage]
        matrices = [clone(getattr(weights, name)) for _ in range(self.copies)]
        layers = [
            backend.prepare_layer(_with(weights, name, matrix), self.shape, self.eps) for matrix in matrices
        ]
        wide = self.reference.prepare_layer(_wide(weights), self.shape, self.eps)
        before = weights.attention_norm if stage == "attention_input" else weights.mlp_norm
        stream, device, cache = self._stream(before), backend.device, self.caches[0]
        q = torch.zeros(self.q.shape, dtype=torch.bfloat16, device=device)
        hidden = torch.zeros_like(self.hidden)
        norms = NormScratch.make(self.batch, self.shape, device)
        slots = self.layout.slots

        def call(index: int) -> None:
            layer: GpuLayer = layers[index % len(layers)]
            if stage == "attention_input":
                attention_input(stream, layer, cache, self.rows, q, norms, dependent=dependent)
            elif stage == "attention_output":
                attention_output(self.q, layer, stream, dependent=dependent)
            elif stage == "gate_up":
                gate_up(stream, layer, hidden, dependent=dependent)
            else:
                down(self.hidden, layer, stream, weights.attention_norm, dependent=dependent)

        def answer() -> Tensor:
            if stage == "attention_input":
                return torch.cat((q.flatten(), cache.keys[slots].flatten(), cache.values[slots].flatten()))
            return hidden if stage == "gate_up" else stream.x

        def expected() -> Tensor:
            x = self.x.float()
            if stage == "attention_input":
                there = LayerCache(cache.keys.float(), cache.values.float())
                wanted = self.reference.attention_input(x, wide, there, self.layout)
                return torch.cat(
                    (wanted.flatten(), there.keys[slots].flatten(), there.values[slots].flatten())
                )
            if stage == "attention_output":
                return self.reference.attention_output(x, self.q.float(), wide)
            if stage == "gate_up":
                return _swiglu(x, wide.weights, self.eps)
            return x + functional.linear(self.hidden.float(), wide.weights.down, wide.weights.down_bias)  # type: ignore[arg-type]

        vectors = {"attention_output": self.q.flatten(1), "down": self.hidden}.get(stage, self.x)
        return StageWork(call, answer, expected, self.copies, self.cost, matrices, vectors)

    def _attention(self) -> StageWork:
        backend = self.backend
        out = torch.zeros_like(self.q)
        positions = self.rows.pages.shape[1] * PAGE_SIZE
        scratch = AttentionScratch.make(self.batch, self.shape, positions, backend.device)

        def call(index: int) -> None:
            cache = self.caches[index % len(self.caches)]
            decode_attention(
                self.q,
                cache.keys,
                cache.values,
                self.rows,
                self.shape,
                scratch,
                out,
                dependent=backend.dependent,
            )

        def expected() -> Tensor:
            wide = LayerCache(self.caches[0].keys.float(), self.caches[0].values.float())
            layer = self.reference.prepare_layer(self.given.layer, self.shape, self.eps)
            return self.reference.attention(self.q.float(), layer, wide, self.layout)

        return StageWork(
            call,
            lambda: out,
            expected,
            self.copies,
            self.cost,
            q=self.q,
            caches=self.caches,
            layout=self.layout,
        )

    def _head(self) -> StageWork:
        backend, given = self.backend, self.given.head
        matrices = [clone(given.weight) for _ in range(self.copies)]
        heads: list[PreparedHead] = [
            backend.prepare_head(HeadWeights(given.norm, matrix), self.eps) for matrix in matrices
        ]
        stream, device = self._stream(given.norm), backend.device
        vocabulary = given.weight.shape[0]
        selection = Selection.make(Kind.GREEDY, self.batch, vocabulary, penalised=False, device=device)
        state, scratch = StepState.make(self.batch, device), HeadScratch.make(heads[0].decode, selection)
        positions = torch.full((self.batch,), 7, dtype=torch.int32, device=device)

        def call(index: int) -> None:
            head = heads[index % len(heads)].decode
            if self.stage == "head_logits":
                head_logits(stream, head, scratch.logits, dependent=backend.dependent)
                return
            head_select(stream, head, selection, state, positions, scratch, dependent=backend.dependent)

        def expected() -> Tensor:
            wide = self.reference.prepare_head(
                HeadWeights(given.norm.float(), _widened(given.weight)), self.eps
            )
            return self.reference.head_logits(self.x.float(), wide)

        def answer() -> Tensor:
            if self.stage == "head_select":  # a choice that is not of these logits is as wrong as logits
                chosen, highest = state.tokens.long(), scratch.logits.argmax(-1)
                if not torch.equal(chosen, highest):
                    raise ValueError(f"chose {chosen.tolist()}, of its logits {highest.tolist()} are highest")
            return scratch.logits

        return StageWork(call, answer, expected, self.copies, self.cost, matrices, self.x)


def _with(weights: LayerWeights, name: str, matrix: Matrix) -> LayerWeights:
    return replace(weights, **{name: matrix})  # type: ignore[arg-type]


def _widened(matrix: Matrix) -> Tensor:
    return dequantize(matrix) if isinstance(matrix, Quantized) else matrix.float()


def _wide(weights: LayerWeights) -> LayerWeights:
    """All in fp32: what rounding in between costs is the kernel's, not the reference's."""
    names = (name for name in LayerWeights.__slots__ if getattr(weights, name) is not None)
    return LayerWeights(**{name: _widened(getattr(weights, name)) for name in names})


def _swiglu(x: Tensor, weights: LayerWeights, eps: float) -> Tensor:
    """silu(W_gate·rmsnorm(x)) · W_up·rmsnorm(x)."""
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weights.mlp_norm
    gate, up = functional.linear(normed, weights.gate_up, weights.gate_up_bias).chunk(2, -1)  # type: ignore[arg-type]
    return functional.silu(gate) * up
