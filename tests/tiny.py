"""Tiny random checkpoints, written by transformers itself, and our engine's view of them."""

from pathlib import Path
from typing import Any

import torch

from engine.config import load_config
from engine.model import Model
from engine.shards import SafetensorsCheckpoint
from engine.weights import load_weights
from kernels.api import load

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": None,
    # ten times the usual 0.02: at this width the logits of 0.02 hardly differ, and any bug would pass
    "initializer_range": 0.2,
}


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)

# name: (transformers class prefix, changes to SHAPE)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-gqa": ("Llama", {}),
    "llama-shallow": ("Llama", {"num_hidden_layers": 1}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-head-dim": ("Llama", {"head_dim": 20}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-rope-llama3": ("Llama", LLAMA3),
    "llama-rope-linear": ("Llama", rope("linear", factor=3.0)),
    "llama-rope-yarn": ("Llama", YARN),
    "llama-rope-yarn-mscale": (
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.1),
    ),
    "llama-rope-yarn-exact": (
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=64, truncate=False, beta_fast=16.0),
    ),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "mistral-no-window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


def write(directory: Path, variant: str, *, shards: bool = False, seed: int = 0) -> Any:
    """Save the variant's checkpoint into `directory`; returns the transformers model, fp32, eval."""
    import transformers

    prefix, changes = VARIANTS[variant]
    config = getattr(transformers, f"{prefix}Config")(**{**SHAPE, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # transformers starts them at 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(directory, max_shard_size="60KB" if shards else "5GB")
    return model


def load_model(directory: Path, dtype: torch.dtype = torch.float32) -> Model:
    config = load_config(directory)
    device = torch.device("cpu")
    weights = load_weights(SafetensorsCheckpoint(directory, config), config, dtype=dtype, device=device)
    return Model(config, weights, load("torch", device))


def prompt(tokens: int, vocabulary: int = 97, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (tokens,), generator=generator).tolist()
