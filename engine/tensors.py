"""Every tensor of a model by name and shape: as Hugging Face checkpoints have them, and as ours packed.

Fusing is declared here, once: a `Projection` says which rows of which tensors make a matrix of the forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.config import ModelConfig
from engine.schemes import Scheme
from kernels.quantize import Format

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix of the forward, (rows of all parts, `columns`), and its bias if it is `biased`.

    `parts`: (name of a projection in a checkpoint, its rows), from top to bottom; `name`: that of the whole.
    `per_token`: it has a row for every token, as the embedding and the head do.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    columns: int
    biased: bool = False
    per_token: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return sum(rows for _, rows in self.parts), self.columns

    def format(self, scheme: Scheme) -> Format:
        return scheme.head if self.per_token else scheme.layers


@dataclass(frozen=True, slots=True)
class Stored:
    """How a checkpoint has to hold a tensor: its shape, the dtypes that will do, (M, C) of what it packs."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    packs: tuple[int, int] | None = None


def embedding(config: ModelConfig) -> Projection:
    """A row per token."""
    name = "model.embed_tokens"
    return Projection(name, ((name, config.vocab_size),), config.hidden_size, per_token=True)


def head(config: ModelConfig) -> Projection:
    """Of a model whose head is not tied to its embedding."""
    return Projection("lm_head", (("lm_head", config.vocab_size),), config.hidden_size, per_token=True)


def head_norm(config: ModelConfig) -> tuple[str, int]:
    """(name, size)."""
    return "model.norm.weight", config.hidden_size


def layer_matrices(config: ModelConfig, index: int) -> dict[str, Projection]:
    """By their names in `LayerWeights`."""
    attention, mlp = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
    hidden, wide = config.hidden_size, config.intermediate_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    qkv = (f"{attention}q_proj", q), (f"{attention}k_proj", kv), (f"{attention}v_proj", kv)
    gate_up = (f"{mlp}gate_proj", wide), (f"{mlp}up_proj", wide)
    output, down = f"{attention}o_proj", f"{mlp}down_proj"
    return {
        "qkv": Projection(f"{attention}qkv_proj", qkv, hidden, config.qkv_bias),
        "output": Projection(output, ((output, hidden),), q, config.output_bias),
        "gate_up": Projection(f"{mlp}gate_up_proj", gate_up, hidden, config.mlp_bias),
        "down": Projection(down, ((down, hidden),), wide, config.mlp_bias),
    }


def layer_norms(config: ModelConfig, index: int) -> dict[str, tuple[str, int]]:
    """(name, size) by their names in `LayerWeights`."""
    prefix = f"model.layers.{index}."
    norms = {
        "attention_norm": (f"{prefix}input_layernorm.weight", config.hidden_size),
        "mlp_norm": (f"{prefix}post_attention_layernorm.weight", config.hidden_size),
    }
    if config.qk_norm:
        norms["q_norm"] = (f"{prefix}self_attn.q_norm.weight", config.head_dim)
        norms["k_norm"] = (f"{prefix}self_attn.k_norm.weight", config.head_dim)
    return norms


def matrices(config: ModelConfig) -> Iterator[Projection]:
    """Every matrix of the model, a tied head not twice."""
    yield embedding(config)
    for index in range(config.n_layers):
        yield from layer_matrices(config, index).values()
    if not config.tied_head:
        yield head(config)


def norms(config: ModelConfig) -> dict[str, int]:
    """Size by name."""
    layers = (layer_norms(config, index).values() for index in range(config.n_layers))
    return dict([*(norm for layer in layers for norm in layer), head_norm(config)])


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the unquantised model by its Hugging Face name."""
    shapes: dict[str, tuple[int, ...]] = {name: (size,) for name, size in norms(config).items()}
    for matrix in matrices(config):
        for name, rows in matrix.parts:
            shapes[f"{name}.weight"] = (rows, matrix.columns)
            if matrix.biased:
                shapes[f"{name}.bias"] = (rows,)
    return shapes


def packed_tensors(config: ModelConfig, scheme: Scheme) -> dict[str, Stored]:
    """Every tensor of a directory that `engine.quantize` wrote: words and scales, biases fused, norms."""
    tensors = {name: Stored((size,)) for name, size in norms(config).items()}
    for matrix in matrices(config):
        words, scales = matrix.format(scheme).shapes(*matrix.shape)
        tensors[f"{matrix.name}.words"] = Stored(words, (torch.int32,), packs=matrix.shape)
        tensors[f"{matrix.name}.scales"] = Stored(scales, (torch.bfloat16,))
        if matrix.biased:
            tensors[f"{matrix.name}.bias"] = Stored((matrix.shape[0],))
    return tensors


def stored_tensors(config: ModelConfig) -> dict[str, Stored]:
    """What a directory with this config has to hold."""
    if config.quantization is not None:
        return packed_tensors(config, config.quantization)
    return {name: Stored(shape) for name, shape in expected_shapes(config).items()}
