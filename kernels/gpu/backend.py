"""The backend `gpu`. Decode steps are Triton kernels over rows in device memory, made to be captured.

Any other batch (prompts, injected tokens, probes, more than 16 rows) goes through torch's matrix products,
with attention over the paged cache in Triton.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from triton import knobs

from kernels.api import (
    AttentionShape,
    BackendUnavailable,
    HeadWeights,
    LayerCache,
    LayerWeights,
    Layout,
    stage_by_stage,
)
from kernels.gpu.attention import decode_attention
from kernels.gpu.attention_input import NormScratch, attention_input
from kernels.gpu.attention_output import attention_output
from kernels.gpu.attention_scratch import AttentionScratch
from kernels.gpu.head_scratch import GpuHead
from kernels.gpu.mlp import down, gate_up
from kernels.gpu.prefill import PrefillTiles, prefill_attention
from kernels.gpu.rows import Rows
from kernels.gpu.shared_prefix import SharedPrefixScratch, shared_prefix_attention
from kernels.gpu.stream import Stream
from kernels.gpu.tiles import Chip
from kernels.gpu.weights import GpuLayer
from kernels.reference import TorchBackend, TorchHead

OLDEST = 80  # compute capability 8.0: bf16 on tensor cores, asynchronous copies


@dataclass(frozen=True, slots=True)
class Scratch:
    """What the kernels of one step hand each other, for B rows; the next step finds it as it needs it."""

    stream: Stream
    q: Tensor
    attended: Tensor
    hidden: Tensor
    norms: NormScratch
    attention: AttentionScratch | SharedPrefixScratch


@dataclass(frozen=True, slots=True)
class PreparedHead:
    """The head for decode steps, and as the library takes it."""

    decode: GpuHead
    library: TorchHead


class GpuBackend:
    """See `kernels.api.Backend` for what each stage computes."""

    name = "gpu"
    captures = True
    batch_invariant_tokens = 0  # several new tokens take other kernels than one does

    def __init__(self, device: torch.device, *, chip: Chip | None = None) -> None:
        """`chip`: the one that kernels are meant for where `device` is the meta device; `kernels.aot` records
        their launches there. Raises `BackendUnavailable` where kernels do not run: on a CPU they do when
        interpreted.
        """
        if device.type != "cuda" and not knobs.runtime.interpret and chip is None:
            raise BackendUnavailable(f"backend gpu: runs on a CUDA device, not on {device}")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                f"backend gpu: torch {torch.__version__} finds no CUDA device; its build may be for CPUs, or "
                "the driver missing or too old"
            )
        self.device, self.chip = device, chip or Chip.of(device)
        if self.chip.capability < OLDEST:
            found = f"{self.chip.capability // 10}.{self.chip.capability % 10}"
            raise BackendUnavailable(
                f"backend gpu: {torch.cuda.get_device_name(device)} has compute capability {found}, 8.0 is "
                "the least; the torch backend runs on it"
            )
        self.dependent = self.chip.dependent
        self._library = TorchBackend(device)
        self._tiles: tuple[Layout, PrefillTiles] | None = None

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> GpuLayer:
        try:
            return GpuLayer.of(self._library.prepare_layer(weights, shape, norm_eps), self.chip)
        except ValueError as error:
            raise BackendUnavailable(f"backend gpu: {error}; the torch backend takes it") from error

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> PreparedHead:
        try:
            decode = GpuHead.of(weights, norm_eps, self.chip)
        except ValueError as error:
            raise BackendUnavailable(f"backend gpu: {error}; the torch backend takes it") from error
        return PreparedHead(decode, self._library.prepare_head(weights, norm_eps))

    def attention_input(self, x: Tensor, layer: GpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        return self._library.attention_input(x, layer.library, cache, layout)

    def attention(self, q: Tensor, layer: GpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        if self._tiles is None or self._tiles[0] is not layout:
            self._tiles = layout, PrefillTiles.make(layout, layer.shape, cache.keys.dtype, self.device)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        with self._current():
            prefill_attention(q.contiguous(), cache.keys, cache.values, self._tiles[1], layer.shape, out)
        return out

    def _current(self) -> AbstractContextManager[object]:
        """Triton launches on the current device, wherever tensors are; torch follows them."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def attention_output(self, x: Tensor, attended: Tensor, layer: GpuLayer) -> Tensor:
        return self._library.attention_output(x, attended, layer.library)

    def mlp(self, x: Tensor, layer: GpuLayer) -> Tensor:
        return self._library.mlp(x, layer.library)

    def layers(
        self, x: Tensor, layers: Sequence[GpuLayer], caches: Sequence[LayerCache], layout: Layout
    ) -> Tensor:
        return stage_by_stage(self, x, layers, caches, layout)

    def head_logits(self, x: Tensor, head: PreparedHead) -> Tensor:
        return self._library.head_logits(x, head.library)

    def scratch(
        self, rows: int, layers: Sequence[GpuLayer], cache: torch.dtype, positions: int, *, shared: bool
    ) -> Scratch:
        """For decode steps of `rows` rows of up to `positions` positions over caches of dtype `cache`.

        `shared`: they read a prefix of theirs, which may be all of them, once for all rows.
        """
        first = layers[0]
        shape, operand = first.shape, first.gate_up.operand
        heads = (rows, shape.n_heads, shape.head_dim)
        return Scratch(
            stream=Stream.make(rows, first.hidden_size, operand, self.device),
            q=torch.empty(heads, dtype=operand, device=self.device),
            attended=torch.empty(heads, dtype=operand, device=self.device),
            hidden=torch.empty(rows, first.down.shape[1], dtype=operand, device=self.device),
            norms=NormScratch.make(rows, shape, self.device),
            attention=SharedPrefixScratch.make(rows, shape, positions, positions, self.device)
            if shared
            else AttentionScratch.make(rows, shape, positions, self.device),
        )

    def decode_layers(
        self,
        layers: Sequence[GpuLayer],
        caches: Sequence[LayerCache],
        rows: Rows,
        scratch: Scratch,
        next_gain: Tensor,
    ) -> None:
        """The stream through consecutive layers; it comes scaled for the first and leaves so for `next_gain`.

        Five launches a layer, six where the rows read a prefix once for all. Mutates `scratch`, and `caches`
        at the rows' positions.
        """
        stream, dependent = scratch.stream, self.dependent
        gains = [layer.library.weights.attention_norm for layer in layers[1:]] + [next_gain]
        for layer, cache, gain in zip(layers, caches, gains, strict=True):
            attention_input(stream, layer, cache, rows, scratch.q, scratch.norms, dependent=dependent)
            given = scratch.q, cache.keys, cache.values, rows, layer.shape
            if isinstance(scratch.attention, SharedPrefixScratch):
                shared_prefix_attention(*given, scratch.attention, scratch.attended, dependent=dependent)
            else:
                decode_attention(*given, scratch.attention, scratch.attended, dependent=dependent)
            attention_output(scratch.attended, layer, stream, dependent=dependent)
            gate_up(stream, layer, scratch.hidden, dependent=dependent)
            down(scratch.hidden, layer, stream, gain, dependent=dependent)
