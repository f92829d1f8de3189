"""The decoder: embedding, the stages of every layer, the head. Reads top to bottom; owns no state."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from engine.ahead import DeviceLoop
from engine.cache import KVCache
from engine.config import ModelConfig
from engine.rope import inverse_frequencies
from engine.weights import ModelWeights, element_bytes
from kernels.api import Backend, Layout
from kernels.cost import Dims
from kernels.quantize import take_rows

PAGE_SIZE = 16  # tokens; vLLM's default: little waste per row, few table entries


class Model:
    """A config, its weights prepared for one backend, and the forward over them."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, backend: Backend) -> None:
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

    def new_cache(self, tokens: int, *, rows: int = 1) -> KVCache:
        """A cache with room for `tokens` positions in all, and a spare page per row for ragged ends."""
        return KVCache(
            n_layers=self.config.n_layers,
            n_kv_heads=self.config.n_kv_heads,
            head_dim=self.config.head_dim,
            pages=_pages(tokens, rows),
            page_size=PAGE_SIZE,
            frequencies=self._frequencies,
            rope_factor=self._rope_factor,
            dtype=self.dtype,
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

    def device_loop(self, cache: KVCache, *, keep_logits: bool) -> DeviceLoop | None:
        """Decode steps over `cache` that need no host in between; None where the backend has none."""
        return None

    def _embed(self, tokens: Tensor) -> Tensor:
        """tokens (N,) int64 -> (N, E)."""
        if isinstance(self._embedding, Tensor):
            return self._embedding[tokens]
        return take_rows(self._embedding, tokens, self.dtype)


def _pages(tokens: int, rows: int) -> int:
    return -(-tokens // PAGE_SIZE) + rows
