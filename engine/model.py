"""The decoder: embedding, the stages of every layer, the head. Reads top to bottom; owns no state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.ahead import DeviceLoop, check_graph_steps
from engine.cache import KVCache, new_pool
from engine.config import ModelConfig
from engine.rope import angles, inverse_frequencies
from engine.rows import Row
from engine.weights import ModelWeights, element_bytes
from kernels.api import Backend, LayerCache, Layout
from kernels.cost import Dims
from kernels.quantize import take_rows

if TYPE_CHECKING:
    from engine.device_loop import CapturedSteps

PAGE_SIZE = 16  # tokens; vLLM's default: little waste per row, few table entries


class Model:
    """A config, its weights prepared for one backend, and the forward over them."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, backend: Backend, *, graph_steps: int = 1
    ) -> None:
        """`graph_steps`: decode steps that one launch may take, see `engine.ahead`."""
        check_graph_steps(graph_steps, backend)
        self._graph_steps = graph_steps
        self.config = config
        self.backend = backend
        self.dtype = weights.dtype
        self.parameters = weights.parameters()
        self._embedding = weights.embedding
        self._weight_bytes = element_bytes(weights.layers[0].qkv)
        self._head_bytes = element_bytes(weights.head.weight)
        self._frequencies, self._rope_factor = inverse_frequencies(config.rope, config.head_dim)
        self._layers = [
            backend.prepare_layer(layer, config.attention_shape(index), config.norm_eps)
            for index, layer in enumerate(weights.layers)
        ]
        self._head = backend.prepare_head(weights.head, config.norm_eps)
        self._steps: CapturedSteps | None = None

    def dims(self) -> Dims:
        """What `kernels.cost` needs to know of this model. The head is read even where it is tied."""
        config = self.config
        windows = set(config.windows)
        return Dims(
            n_layers=config.n_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            weight_bytes=self._weight_bytes,
            head_bytes=self._head_bytes,
            cache_bytes=self.dtype.itemsize,
            window=windows.pop() if len(windows) == 1 else None,
        )

    def cache_bytes(self, tokens: int, *, rows: int = 1) -> int:
        """What `new_cache` will take."""
        position = 2 * self.config.n_layers * self.config.n_kv_heads * self.config.head_dim
        return _pages(tokens, rows) * PAGE_SIZE * position * self.dtype.itemsize

    @property
    def kept_bytes(self) -> int:
        """Of the pool kept for captured steps: a `request_cache` lies in it, or in what takes its place."""
        kept = () if self._steps is None else self._steps.parts.caches
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in kept)

    def new_cache(self, tokens: int, *, rows: int = 1) -> KVCache:
        """A cache with room for `tokens` positions in all, and a spare page per row for ragged ends."""
        return self._cache_over(self._new_pool(_pages(tokens, rows)), _pages(tokens, rows))

    def request_cache(self, tokens: int, *, rows: int) -> KVCache:
        """As `new_cache`, for one request at a time: over one pool, where steps are captured with it."""
        pages = _pages(tokens, rows)
        if not self.backend.captures:
            return self._cache_over(self._new_pool(pages), pages)
        if self._steps is None or self._steps.pages < pages:
            self._steps = None  # the old pool's memory is free before the new one's is taken
            self._steps = self.captured_steps(self._roomy_pool(pages))
        return self._cache_over(self._steps.parts.caches, pages)

    def device_loop(
        self,
        cache: KVCache,
        rows: Sequence[Row],
        *,
        clock: Callable[[], float],
        keep_logits: bool,
        prefix: int | None = None,
    ) -> DeviceLoop | None:
        """Decode steps over a `request_cache` that need no host in between; None where there are none.

        `prefix`: how many first positions the rows will share when they begin; None: what they share now.
        """
        if self._steps is None:
            return None
        from engine.device_loop import MOST_ROWS, GpuLoop

        if len(rows) > MOST_ROWS:
            return None
        return GpuLoop(self._steps, cache, rows, clock=clock, keep_logits=keep_logits, prefix=prefix)

    def captured_steps(self, pool: Sequence[LayerCache]) -> CapturedSteps:
        """Decode steps over the pages of `pool`, for a backend that captures them."""
        from engine.device_loop import CapturedSteps
        from kernels.gpu.backend import GpuBackend
        from kernels.gpu.decode_step import Parts

        assert isinstance(self.backend, GpuBackend), "the one backend that captures"
        positions = torch.arange(self.config.max_context, device=self.backend.device)
        cos, sin = angles(positions, self._frequencies.to(positions.device), self._rope_factor)
        return CapturedSteps(
            Parts(self.backend, self._embedding, self._layers, self._head, pool, cos, sin, PAGE_SIZE),
            graph_steps=self._graph_steps,
        )

    def _roomy_pool(self, pages: int) -> tuple[LayerCache, ...]:
        """Of the next power of two, so that longer requests find steps captured; of `pages` without room."""
        try:
            return self._new_pool(1 << (pages - 1).bit_length())
        except torch.OutOfMemoryError:
            pass  # outside of here, nothing holds what was made of it
        return self._new_pool(pages)

    def _new_pool(self, pages: int) -> tuple[LayerCache, ...]:
        config = self.config
        shape = (pages * PAGE_SIZE, config.n_kv_heads, config.head_dim)
        return new_pool(config.n_layers, shape, self.dtype, self.backend.device)

    def _cache_over(self, pool: Sequence[LayerCache], pages: int) -> KVCache:
        return KVCache(
            pool,
            pages=pages,
            page_size=PAGE_SIZE,
            frequencies=self._frequencies,
            rope_factor=self._rope_factor,
            device=self.backend.device,
        )

    @torch.inference_mode()
    def forward(
        self,
        tokens: Sequence[int],
        layout: Layout,
        cache: KVCache,
        *,
        taps: Collection[int] = (),
        of: Sequence[int] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All new tokens of the batch through all layers; logits of each row's last token.

        `tokens`: N ids, rows one after the other as `layout` has them. `of`: which B of them are asked for,
        where it is not each row's last. Returns ((B, V) fp32 logits, {layer: (B, E) hidden states after that
        layer} for the layers in `taps`). Mutates `cache`.
        """
        device = self.backend.device
        x = self._embed(torch.tensor(tokens, device=device))
        last = torch.tensor([row.stop - 1 for row in layout.rows] if of is None else of, device=device)
        hidden: dict[int, Tensor] = {}
        backend, begin = self.backend, 0
        for tap in [*sorted(taps), self.config.n_layers - 1]:
            end = tap + 1
            if end > begin:
                some = slice(begin, end)
                x = backend.layers(x, self._layers[some], cache.layers[some], layout)
            if tap in taps:
                hidden[tap] = x[last]
            begin = end
        return backend.head_logits(x[last], self._head), hidden

    def _embed(self, tokens: Tensor) -> Tensor:
        """tokens (N,) int64 -> (N, E)."""
        if isinstance(self._embedding, Tensor):
            return self._embedding[tokens]
        return take_rows(self._embedding, tokens, self.dtype)


def _pages(tokens: int, rows: int) -> int:
    return -(-tokens // PAGE_SIZE) + rows
