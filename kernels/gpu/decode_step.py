"""One decode step as the device takes it: embedding, layers, head and choice, from tokens to tokens.

All that changes between steps lies in device memory and is written in place, so that a step is captured once
and replayed for any position, prompt and setting of its shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.api import LayerCache
from kernels.gpu.backend import GpuBackend, PreparedHead
from kernels.gpu.embed import embed
from kernels.gpu.head import head_select
from kernels.gpu.head_scratch import HeadScratch
from kernels.gpu.rows import Rows
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import StepState
from kernels.gpu.stream import begin
from kernels.gpu.weights import GpuLayer
from kernels.quantize import Matrix


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a captured step is fixed to: `rows`, `pages` of a row at most, the `kind` of choice, penalties.

    `shared`: the rows' common prefix, however long, is read once for all; their last bits then depend on each
    other (`kernels.gpu.shared_prefix`), which those of other steps do not.
    """

    rows: int
    pages: int
    kind: Kind
    penalised: bool
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """A model in the backend's hands. `cos`, `sin` (positions, D/2) fp32: the angles of every position."""

    backend: GpuBackend
    embedding: Matrix
    layers: Sequence[GpuLayer]
    head: PreparedHead
    caches: Sequence[LayerCache]
    cos: Tensor
    sin: Tensor
    page_size: int


class DecodeStep:
    """`run` feeds `state.tokens` at `rows.positions` and leaves the next ones there. Resting when made."""

    def __init__(self, parts: Parts, shape: StepShape) -> None:
        device = parts.backend.device
        self.shape, self._parts = shape, parts
        self.rows = Rows(
            torch.full((shape.rows,), -1, dtype=torch.int32, device=device),
            torch.zeros(shape.rows, shape.pages, dtype=torch.int32, device=device),
            parts.cos,
            parts.sin,
            parts.page_size,
            torch.zeros(1, dtype=torch.int32, device=device) if shape.shared else None,
        )
        vocabulary, columns = parts.head.decode.matrix.shape
        self.state = StepState.make(shape.rows, device)
        self.selection = Selection.make(
            shape.kind, shape.rows, vocabulary, penalised=shape.penalised, device=device
        )
        self._x = torch.zeros(shape.rows, columns, dtype=torch.float32, device=device)
        positions = shape.pages * parts.page_size
        self._scratch = parts.backend.scratch(
            shape.rows, parts.layers, parts.caches[0].keys.dtype, positions, shared=shape.shared
        )
        self._head_scratch = HeadScratch.make(parts.head.decode, self.selection)

    @property
    def logits(self) -> Tensor:
        """(B, V) fp32 of the last step: the model's own, before penalty and temperature."""
        return self._head_scratch.logits

    def run(self) -> None:
        """Launch all kernels of one step; allocates nothing, waits for nothing."""
        parts, stream = self._parts, self._scratch.stream
        dependent = parts.backend.dependent
        embed(self.state.tokens, parts.embedding, self._x, dependent=dependent)
        begin(self._x, parts.layers[0].library.weights.attention_norm, stream, dependent=dependent)
        parts.backend.decode_layers(
            parts.layers, parts.caches, self.rows, self._scratch, parts.head.decode.norm
        )
        head_select(
            stream,
            parts.head.decode,
            self.selection,
            self.state,
            self.rows.positions,
            self._head_scratch,
            dependent=dependent,
        )

    def load(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        pages: Sequence[Sequence[int]],
        *,
        prefix: int = 0,
    ) -> None:
        """The next step feeds these tokens at these positions; rows beyond them rest. Counts steps from 0.

        `prefix`: how many first positions these rows hold in the same pages, none of them to be written to.
        Raises `ValueError` where there are any and the step is not of a `shared` shape.
        """
        if self.rows.prefix is not None:
            self.rows.prefix.fill_(prefix)
        elif prefix:
            raise ValueError(f"{prefix} shared positions for a step whose rows read their own")
        resting = self.shape.rows - len(tokens)
        table = torch.zeros(self.shape.rows, self.shape.pages, dtype=torch.int32)
        for number, of_row in enumerate(pages):
            table[number, : len(of_row)] = torch.tensor(of_row, dtype=torch.int32)
        self.rows.pages.copy_(table)
        self.rows.positions.copy_(torch.tensor([*positions, *[-1] * resting], dtype=torch.int32))
        self.state.tokens.copy_(torch.tensor([*tokens, *[0] * resting], dtype=torch.int32))
        self.state.steps.zero_()
