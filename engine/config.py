"""What a checkpoint's config.json says, as one validated value; anything this engine cannot run is refused.

Families: llama (1-3.x), mistral, qwen2 (and 2.5), qwen3. Both spellings of the rope settings are read:
`rope_theta` with `rope_scaling`, and `rope_parameters` (transformers 5). Missing keys take the defaults
that transformers gives them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import TokenjouleError
from engine.rope import ROPE_TYPES, Rope
from engine.schemes import Scheme, parse_quantization
from kernels.api import AttentionShape

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model's shape and constants.

    `windows`: per layer, how far back attention sees (None: all). `quantization`: how the checkpoint's
    matrices are packed, None where they are not. `shape_only`: it was made of random weights.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_context: int
    norm_eps: float
    rope: Rope
    tied_head: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]
    dtype: str | None
    eos_ids: tuple[int, ...]
    quantization: Scheme | None
    shape_only: bool

    def attention_shape(self, layer: int) -> AttentionShape:
        return AttentionShape(self.n_heads, self.n_kv_heads, self.head_dim, self.windows[layer])


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `TokenjouleError` naming the file when it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TokenjouleError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenjouleError(f"{path} does not hold a JSON object")
    return value


def load_config(directory: Path) -> ModelConfig:
    """The model in a Hugging Face directory. Raises `TokenjouleError` for what is missing or unknown."""
    path = directory / "config.json"
    if not path.is_file():
        raise TokenjouleError(f"{directory} has no config.json: not a Hugging Face model directory")
    generation = directory / "generation_config.json"
    return parse_config(read_json(path), read_json(generation) if generation.is_file() else {}, str(path))


def parse_config(raw: Mapping[str, Any], generation: Mapping[str, Any], source: str) -> ModelConfig:
    """`raw` is config.json, `generation` generation_config.json, `source` names them in errors."""
    fields = _Fields(raw, source)
    architecture = _architecture(raw, source)
    family = FAMILIES[architecture]
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise TokenjouleError(f"{source}: hidden_act {activation!r} is not supported, only 'silu' is")

    hidden = fields.integer("hidden_size")
    n_heads = fields.integer("num_attention_heads")
    default_kv = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(family, n_heads)
    n_kv_heads = fields.integer(
        "num_key_value_heads", n_heads if "num_key_value_heads" in raw else default_kv
    )
    head_dim = fields.integer("head_dim", 128 if family == "qwen3" else hidden // n_heads)
    if n_heads % n_kv_heads:
        raise TokenjouleError(
            f"{source}: num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}"
        )
    if head_dim % 2:
        raise TokenjouleError(f"{source}: head_dim {head_dim} is odd; rotary embedding needs pairs")
    n_layers = fields.integer("num_hidden_layers")
    default_context = {"llama": 2048, "mistral": 131072}.get(family, 32768)
    max_context = fields.integer("max_position_embeddings", default_context)
    attention_bias = fields.boolean("attention_bias", False) and family in ("llama", "qwen3")
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    if dtype is not None and dtype not in DTYPES:
        raise TokenjouleError(f"{source}: dtype {dtype!r} is not supported; known: {', '.join(DTYPES)}")
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        max_context=max_context,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=_rope(raw, max_context, source),
        tied_head=fields.boolean("tie_word_embeddings", False),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=attention_bias,
        mlp_bias=fields.boolean("mlp_bias", False) and family == "llama",
        qk_norm=family == "qwen3",
        windows=_windows(raw, family, n_layers, source),
        dtype=dtype,
        eos_ids=_eos_ids(raw, generation, source),
        quantization=parse_quantization(raw, source),
        shape_only=fields.boolean("shape_only", False),
    )


class _Fields:
    """Typed access to a raw config with errors that name the key, the value and the file."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None:
            if default is None:
                raise TokenjouleError(f"{self.source}: {key} is missing")
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise TokenjouleError(f"{self.source}: {key} must be a positive integer, found {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = default if self.raw.get(key) is None else self.raw[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise TokenjouleError(f"{self.source}: {key} must be a positive number, found {value!r}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.raw.get(key) is None else self.number(key, 1.0)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise TokenjouleError(f"{self.source}: {key} must be true or false, found {value!r}")
        return value


def _architecture(raw: Mapping[str, Any], source: str) -> str:
    named = raw.get("architectures") or []
    if not named and raw.get("model_type") in FAMILIES.values():
        return next(name for name, family in FAMILIES.items() if family == raw["model_type"])
    found = str(named[0]) if isinstance(named, list) and named else str(raw.get("model_type"))
    if found not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise TokenjouleError(f"{source}: architecture {found!r} is not supported; known: {known}")
    return found


def _rope(raw: Mapping[str, Any], max_context: int, source: str) -> Rope:
    given: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        settings = raw.get(key) or {}
        if not isinstance(settings, dict):
            raise TokenjouleError(f"{source}: {key} must be an object, found {settings!r}")
        given |= settings
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise TokenjouleError(
            f"{source}: rope type {kind!r} is not supported; known: {', '.join(ROPE_TYPES)}"
        )
    if given.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise TokenjouleError(f"{source}: partial_rotary_factor other than 1 is not supported")
    fields = _Fields({**given, "rope_theta": given.get("rope_theta", raw.get("rope_theta", 10000.0))}, source)
    original = raw.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    if kind != "default" and given.get("factor") is None:
        raise TokenjouleError(f"{source}: rope type {kind!r} needs a factor")
    original = original or max_context
    return Rope(
        type=kind,
        theta=fields.number("rope_theta", 10000.0),
        factor=fields.number("factor", 1.0),
        original_context=_Fields({"original_max_position_embeddings": original}, source).integer(
            "original_max_position_embeddings"
        ),
        low_freq_factor=fields.number("low_freq_factor", 1.0),
        high_freq_factor=fields.number("high_freq_factor", 4.0),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        attention_factor=fields.optional_number("attention_factor"),
        mscale=fields.optional_number("mscale"),
        mscale_all_dim=fields.optional_number("mscale_all_dim"),
        truncate=given.get("truncate", True),
    )


def _windows(raw: Mapping[str, Any], family: str, n_layers: int, source: str) -> tuple[int | None, ...]:
    """Mistral: every layer, 4096 unless the config says otherwise. Qwen: the layers it names, if at all."""
    if family == "llama":
        return (None,) * n_layers
    window = raw.get("sliding_window", 4096)
    if window is not None:
        window = _Fields({"sliding_window": window}, source).integer("sliding_window")
    if family == "mistral":
        return (window,) * n_layers
    if not raw.get("use_sliding_window", False):
        window = None
    types = raw.get("layer_types")
    if types is None:
        full = raw.get("max_window_layers", 28)
        if isinstance(full, bool) or not isinstance(full, int) or full < 0:
            raise TokenjouleError(f"{source}: max_window_layers must be a whole number, found {full!r}")
        return tuple(window if index >= full else None for index in range(n_layers))
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != n_layers or any(kind not in known for kind in types):
        raise TokenjouleError(f"{source}: layer_types must name {' or '.join(known)} for {n_layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _eos_ids(raw: Mapping[str, Any], generation: Mapping[str, Any], source: str) -> tuple[int, ...]:
    """generation_config.json decides where it names any, as it may hold several (Llama 3 has three)."""
    named = generation.get("eos_token_id")
    found = raw.get("eos_token_id") if named is None else named
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise TokenjouleError(f"{source}: eos_token_id must be one or several token ids, found {found!r}")
    return tuple(ids)
