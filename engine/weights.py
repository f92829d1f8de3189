"""From a checkpoint's tensors to the weights of the stages: names, shapes, fusing, dtype, device.

Files are memory-mapped; a tensor is copied only where projections are fused or the dtype changes. Tensors
that the config does not account for are refused: dropping a bias in silence would be another model.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig, read_json
from engine.errors import TokenjouleError
from kernels.api import HeadWeights, LayerWeights

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """`embedding` (V, E); with a tied head `head.weight` is the same tensor."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    head: HeadWeights

    def parameters(self) -> int:
        """How many numbers the model has; a tied head is counted once."""
        tensors = [self.embedding, self.head.norm]
        if self.head.weight is not self.embedding:
            tensors.append(self.head.weight)
        for layer in self.layers:
            tensors += [t for name in LayerWeights.__slots__ if (t := getattr(layer, name)) is not None]
        return sum(tensor.numel() for tensor in tensors)


class Checkpoint(Protocol):
    """Named tensors, of the shapes that `expected_shapes` lists."""

    def tensor(self, name: str) -> Tensor: ...


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its Hugging Face name."""
    hidden, wide = config.hidden_size, config.intermediate_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.n_layers):
        prefix = f"model.layers.{index}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (q, hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, q),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.gate_proj.weight": (wide, hidden),
            f"{prefix}mlp.up_proj.weight": (wide, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, wide),
        }
        if config.qkv_bias:
            shapes |= {
                f"{prefix}self_attn.q_proj.bias": (q,),
                f"{prefix}self_attn.k_proj.bias": (kv,),
                f"{prefix}self_attn.v_proj.bias": (kv,),
            }
        if config.output_bias:
            shapes[f"{prefix}self_attn.o_proj.bias"] = (hidden,)
        if config.mlp_bias:
            shapes |= {
                f"{prefix}mlp.gate_proj.bias": (wide,),
                f"{prefix}mlp.up_proj.bias": (wide,),
                f"{prefix}mlp.down_proj.bias": (hidden,),
            }
        if config.qk_norm:
            shapes[f"{prefix}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (config.head_dim,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


class SafetensorsCheckpoint:
    """The safetensors files of a Hugging Face directory, opened and checked against `config`.

    Raises `TokenjouleError` for absent, truncated or foreign files and for missing, unexpected or misshapen
    tensors, naming the file or the tensor.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._files: dict[str, safe_open] = {}
        self._path_of: dict[str, Path] = {}
        for path, names in _shards(directory):
            file = _open(path)
            held = list(file.keys())
            for name in names if names is not None else held:
                if name not in held:
                    raise TokenjouleError(f"{path} does not hold {name}, which the index places there")
                self._files[name], self._path_of[name] = file, path
        self._check(config, directory)
        if config.tied_head and "lm_head.weight" in self._files:
            head, embedding = self.tensor("lm_head.weight"), self.tensor("model.embed_tokens.weight")
            if not torch.equal(head, embedding):
                raise TokenjouleError(
                    f"{directory}: tie_word_embeddings is true, but lm_head.weight is not the embedding"
                )

    def tensor(self, name: str) -> Tensor:
        try:
            tensor = self._files[name].get_tensor(name)
        except SafetensorError as error:
            raise TokenjouleError(f"{self._path_of[name]}: cannot read {name}: {error}") from error
        if tensor.dtype not in FLOATS:
            raise TokenjouleError(f"{self._path_of[name]}: {name} has dtype {tensor.dtype}, not supported")
        return tensor

    def _check(self, config: ModelConfig, directory: Path) -> None:
        expected = expected_shapes(config)
        missing = [name for name in expected if name not in self._files]
        if missing:
            raise TokenjouleError(f"{directory} lacks {len(missing)} tensors, the first is {missing[0]}")
        for name, shape in expected.items():
            found = tuple(self._files[name].get_slice(name).get_shape())
            if found != shape:
                raise TokenjouleError(
                    f"{self._path_of[name]}: {name} has shape {list(found)}, expected {list(shape)}"
                )
        foreign = [name for name in self._files if name not in expected and not _redundant(name, config)]
        if foreign:
            raise TokenjouleError(
                f"{directory} holds {len(foreign)} tensors that a {config.architecture} of this config "
                f"does not have, the first is {foreign[0]}"
            )


def _redundant(name: str, config: ModelConfig) -> bool:
    """Tensors some exporters write although the config already determines them."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied_head and name == "lm_head.weight")


def _shards(directory: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """(file, the names it must hold; None for all it has)."""
    if (directory / INDEX).is_file():
        placed = read_json(directory / INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(f, str) for f in placed.values()):
            raise TokenjouleError(f"{directory / INDEX} has no weight_map")
        for shard in sorted(set(placed.values())):
            if not (directory / shard).is_file():
                raise TokenjouleError(f"{directory} lacks the shard {shard}, which {INDEX} names")
            yield directory / shard, [name for name, file in placed.items() if file == shard]
    elif (directory / SINGLE).is_file():
        yield directory / SINGLE, None
    else:
        other = next((f.name for f in directory.glob("*.bin")), None)
        hint = f"; {other} is there, but only safetensors are read" if other else ""
        raise TokenjouleError(f"{directory} has no {SINGLE} and no {INDEX}{hint}")


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise TokenjouleError(f"{path} is not a complete safetensors file: {error}") from error


class RandomCheckpoint:
    """Weights drawn from N(0, 0.02²), norms 1, biases 0: the exact shapes of a model without a download.

    Figures from them are about shape only. Each tensor has its own stream, keyed by (seed, name).
    """

    def __init__(self, config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> None:
        self._shapes = expected_shapes(config)
        self._order = {name: index for index, name in enumerate(self._shapes)}
        self._seed, self._dtype = seed, dtype

    def tensor(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(".bias"):
            return torch.zeros(shape, dtype=self._dtype)
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._dtype)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._order[name])
        return torch.empty(shape, dtype=self._dtype).normal_(0.0, 0.02, generator=generator)


def load_weights(
    checkpoint: Checkpoint, config: ModelConfig, *, dtype: torch.dtype, device: torch.device
) -> ModelWeights:
    """The weights of every stage in `dtype` on `device`, layer by layer."""

    def fetch(*names: str) -> Tensor:
        parts = [checkpoint.tensor(name).to(device=device, dtype=dtype) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def optional(wanted: bool, *names: str) -> Tensor | None:
        return fetch(*names) if wanted else None

    def layer(index: int) -> LayerWeights:
        attention, mlp = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
        return LayerWeights(
            attention_norm=fetch(f"model.layers.{index}.input_layernorm.weight"),
            qkv=fetch(*(f"{attention}{part}_proj.weight" for part in "qkv")),
            qkv_bias=optional(config.qkv_bias, *(f"{attention}{part}_proj.bias" for part in "qkv")),
            q_norm=optional(config.qk_norm, f"{attention}q_norm.weight"),
            k_norm=optional(config.qk_norm, f"{attention}k_norm.weight"),
            output=fetch(f"{attention}o_proj.weight"),
            output_bias=optional(config.output_bias, f"{attention}o_proj.bias"),
            mlp_norm=fetch(f"model.layers.{index}.post_attention_layernorm.weight"),
            gate_up=fetch(f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight"),
            gate_up_bias=optional(config.mlp_bias, f"{mlp}gate_proj.bias", f"{mlp}up_proj.bias"),
            down=fetch(f"{mlp}down_proj.weight"),
            down_bias=optional(config.mlp_bias, f"{mlp}down_proj.bias"),
        )

    embedding = fetch("model.embed_tokens.weight")
    head = embedding if config.tied_head else fetch("lm_head.weight")
    return ModelWeights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(config.n_layers)),
        head=HeadWeights(fetch("model.norm.weight"), head),
    )
