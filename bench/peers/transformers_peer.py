"""transformers on our own weights, in the same memory: forward with sdpa attention, and its two caches."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.contender import Filled, best_threads
from bench.peers.plain import plain
from bench.record import Arm
from bench.source import Source
from bench.timing import fastest
from engine.config import ModelConfig
from engine.weights import ModelWeights


def build(raw: Mapping[str, Any], config: ModelConfig, weights: ModelWeights) -> Any:
    """Its model of a config.json, its parameters views of our tensors: nothing is copied.

    Raises `ImportError` where transformers is not installed.
    """
    import transformers

    kind = getattr(transformers, config.architecture)
    theirs = kind.config_class(**{key: value for key, value in raw.items() if key != "shape_only"})
    theirs._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = kind(theirs)
    model.load_state_dict(dict(_named(weights, config)), strict=True, assign=True)
    model.tie_weights()
    # Its frequencies are no parameter: on "meta" they were never computed.
    model.model.rotary_emb = type(model.model.rotary_emb)(theirs).to(weights.head.norm.device)
    return model.eval().requires_grad_(False)


def _named(weights: ModelWeights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, view) of every parameter."""
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "model.embed_tokens.weight", plain(weights.embedding)
    for index, layer in enumerate(weights.layers):
        to = f"model.layers.{index}."
        for part, rows in zip("qkv", plain(layer.qkv).split((q, kv, kv)), strict=True):
            yield f"{to}self_attn.{part}_proj.weight", rows
        if layer.qkv_bias is not None:
            for part, bias in zip("qkv", layer.qkv_bias.split((q, kv, kv)), strict=True):
                yield f"{to}self_attn.{part}_proj.bias", bias
        optional = {
            "self_attn.q_norm.weight": layer.q_norm,
            "self_attn.k_norm.weight": layer.k_norm,
            "self_attn.o_proj.bias": layer.output_bias,
            "mlp.down_proj.bias": layer.down_bias,
        }
        yield from ((to + name, tensor) for name, tensor in optional.items() if tensor is not None)
        gate, up = plain(layer.gate_up).chunk(2)
        yield f"{to}mlp.gate_proj.weight", gate
        yield f"{to}mlp.up_proj.weight", up
        if layer.gate_up_bias is not None:
            gate, up = layer.gate_up_bias.chunk(2)
            yield f"{to}mlp.gate_proj.bias", gate
            yield f"{to}mlp.up_proj.bias", up
        yield f"{to}mlp.down_proj.weight", plain(layer.down)
        yield f"{to}self_attn.o_proj.weight", plain(layer.output)
        yield f"{to}input_layernorm.weight", layer.attention_norm
        yield f"{to}post_attention_layernorm.weight", layer.mlp_norm
    yield "model.norm.weight", weights.head.norm
    yield "lm_head.weight", plain(weights.head.weight)


def weight_bytes(model: Any, config: ModelConfig) -> int:
    """What a decode step reads of the parameters."""
    return sum(
        parameter.nbytes
        for name, parameter in model.named_parameters()
        if config.tied_head or "embed_tokens" not in name
    )


class Transformers:
    """A contender, see `bench.contender`. Threads are measured, for decoding and for prefill apart.

    Which of its two caches is the faster depends on the length (4k, 1B bf16, 2 cores: 194 against 343 ms for
    the static one) and on the mask that the static one needs: for each case both are tried, the faster stays.
    """

    def __init__(self, source: Source) -> None:
        self._model = build(source.raw, source.config, source.weights)
        self._weight_bytes = weight_bytes(self._model, source.config)
        filled = [
            (torch.zeros(1, source.config.n_kv_heads, 8, source.config.head_dim, dtype=source.dtype),) * 2
        ]
        steps = DynamicDecoding(self._model, filled * source.config.n_layers)
        self.threads = best_threads(steps.step, torch.set_num_threads)
        self._prefill_threads = best_threads(lambda: self.prefill([1] * 64), torch.set_num_threads)
        dtype = str(source.dtype).removeprefix("torch.")
        note = f"eager, sdpa; {self._prefill_threads} threads for prefill"
        self.arm = Arm("transformers none", "transformers", "torch", "none", dtype, self.threads, note)

    def start(self, filled: Filled, steps: int) -> "TransformersDecoding":
        return TransformersDecoding(self._model, self._weight_bytes, filled, steps, self.threads)

    def ready(self) -> None:
        torch.set_num_threads(self._prefill_threads)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> Tensor:
        import transformers

        cache = transformers.DynamicCache(config=self._model.config)
        # the last token's logits alone, as its own generate asks for
        ids = torch.tensor([list(tokens)])
        return self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()

    def close(self) -> None:
        self._model = None


class TransformersDecoding:
    """See `bench.contender.Decoding`."""

    def __init__(self, model: Any, weight_bytes: int, filled: Filled, steps: int, threads: int) -> None:
        self._threads = threads
        layers = filled.layers()
        keys = layers[0][0]
        position_bytes = 2 * len(layers) * filled.rows * keys.shape[1] * keys.shape[3] * keys.element_size()
        self.bytes = weight_bytes + position_bytes * (filled.start + 1 + steps)
        self.ready()
        kinds: dict[str, DynamicDecoding] = {
            kind.name: kind
            for kind in (
                DynamicDecoding(model, layers),
                StaticDecoding(model, layers, filled.start + 1 + steps),
            )
        }

        def sample(kind: DynamicDecoding) -> None:
            for _ in range(1 + steps):
                kind.step()
            kind.rollback()

        self.note = fastest({name: partial(sample, kind) for name, kind in kinds.items()})
        self._kind = kinds[self.note]

    def ready(self) -> None:
        torch.set_num_threads(self._threads)

    def step(self) -> None:
        self._kind.step()

    def rollback(self) -> None:
        self._kind.rollback()

    def logits(self) -> Tensor:
        found = self._kind.step().float()
        self._kind.rollback()
        return found

    def close(self) -> None:
        del self._kind


class DynamicDecoding:
    """Decode steps over transformers' DynamicCache, which grows by a copy of itself each step.

    `filled`: (keys, values) of each layer, (B, K, S, D) each, kept as they are.
    """

    name = "DynamicCache"

    def __init__(self, model: Any, filled: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._model, self._filled = model, filled
        self._tokens: Tensor
        self.rollback()

    @torch.inference_mode()
    def step(self) -> Tensor:
        """One token per row, the next ones chosen -> their logits (B, V)."""
        logits = self._model(
            self._tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        ).logits
        self._tokens = logits.argmax(-1)
        return logits[:, -1]

    def rollback(self) -> None:
        """Back to the filled positions."""
        import transformers

        self._cache = transformers.DynamicCache(config=self._model.config)
        for layer, (keys, values) in zip(self._cache.layers, self._filled, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        keys = self._filled[0][0]
        self._tokens = torch.ones(len(keys), 1, dtype=torch.long, device=keys.device)


class StaticDecoding(DynamicDecoding):
    """Decode steps over transformers' StaticCache of `length` positions, written in place."""

    name = "StaticCache"

    def __init__(self, model: Any, filled: Sequence[tuple[Tensor, Tensor]], length: int) -> None:
        import transformers

        self._held = filled[0][0].shape[2]
        self._cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        for layer, (keys, values) in zip(self._cache.layers, filled, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys[:, :, : self._held] = keys
            layer.values[:, :, : self._held] = values
        super().__init__(model, [(layer.keys, layer.values) for layer in self._cache.layers])

    def rollback(self) -> None:
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._held)
        keys = self._filled[0][0]
        self._tokens = torch.ones(len(keys), 1, dtype=torch.long, device=keys.device)
