"""Exact shapes of well-known models, for speed and energy work without a download.

Each is the model's own config.json, cut to what sets shape and cost. Source: the configs published with
the models (Meta, Mistral AI, Qwen).
"""

from typing import Any

_LLAMA_32_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_31_ROPE = {**_LLAMA_32_ROPE, "factor": 8.0}


def _config(
    architecture: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: tuple[int, int],
    vocab: int,
    context: int,
    rope: dict[str, Any],
    *,
    tied: bool = False,
    head_dim: int = 128,
    eps: float = 1e-5,
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": eps,
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
        "sliding_window": None,
        "dtype": "bfloat16",
    }


def _llama(hidden: int, wide: int, layers: int, heads: tuple[int, int], **options: Any) -> dict[str, Any]:
    rope = options.pop("rope", _LLAMA_31_ROPE)
    return _config("LlamaForCausalLM", hidden, wide, layers, heads, 128256, 131072, rope, **options)


def _qwen2(
    hidden: int, wide: int, layers: int, heads: tuple[int, int], vocab: int = 151936, **options: Any
) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return _config("Qwen2ForCausalLM", hidden, wide, layers, heads, vocab, 32768, rope, eps=1e-6, **options)


def _qwen3(hidden: int, wide: int, layers: int, heads: tuple[int, int], **options: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return _config("Qwen3ForCausalLM", hidden, wide, layers, heads, 151936, 40960, rope, eps=1e-6, **options)


_MISTRAL_ROPE = {"rope_type": "default", "rope_theta": 1e6}

PRESETS: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": _llama(2048, 8192, 16, (32, 8), rope=_LLAMA_32_ROPE, tied=True, head_dim=64),
    "llama-3.2-3b": _llama(3072, 8192, 28, (24, 8), rope=_LLAMA_32_ROPE, tied=True),
    "llama-3.1-8b": _llama(4096, 14336, 32, (32, 8)),
    "llama-3.1-70b": _llama(8192, 28672, 80, (64, 8)),
    "mistral-7b": _config("MistralForCausalLM", 4096, 14336, 32, (32, 8), 32768, 32768, _MISTRAL_ROPE),
    "qwen2.5-0.5b": _qwen2(896, 4864, 24, (14, 2), tied=True, head_dim=64),
    "qwen2.5-1.5b": _qwen2(1536, 8960, 28, (12, 2), tied=True),
    "qwen2.5-7b": _qwen2(3584, 18944, 28, (28, 4), 152064),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, (16, 8), tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, (16, 8), tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, (32, 8), tied=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, (32, 8)),
}
