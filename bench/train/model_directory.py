"""A model of the test bed as a Hugging Face directory: weights, config, tokenizer, generation settings."""

import copy
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.testbed.vocabulary import (
    ANSWER_PREFIX,
    BOS,
    CLOSER,
    EOS,
    PAD,
    STEP_SEPARATOR,
    TOKEN_ID,
    VOCABULARY,
)
from bench.train.recipe import CONTEXT, Shape
from bench.train.tokenizer import write_tokenizer


def model_config(shape: Shape) -> LlamaConfig:
    """The configuration that transformers and the engine read."""
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=TOKEN_ID[BOS],
        eos_token_id=TOKEN_ID[EOS],
        pad_token_id=TOKEN_ID[PAD],
    )


def write_model(model: LlamaForCausalLM, directory: Path, *, stored_as: str) -> None:
    """Writes a complete model directory; `model` itself stays as it is. `stored_as`: a torch dtype."""
    directory.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, stored_as)
    stored = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    stored.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # saved readable by its owner alone
    write_tokenizer(directory, max_length=CONTEXT)
    settings = {
        "bos_token_id": TOKEN_ID[BOS],
        "eos_token_id": TOKEN_ID[EOS],
        "pad_token_id": TOKEN_ID[PAD],
        # Not a transformers key. `opener` null: generation begins inside the thinking phase.
        "thinking": {
            "opener": None,
            "closer": CLOSER,
            "answer_prefix": ANSWER_PREFIX,
            "step_separator": STEP_SEPARATOR,
        },
    }
    (directory / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
