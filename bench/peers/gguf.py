"""Our weights as a GGUF file, llama.cpp's format, so that it runs the very same model. Needs `gguf`.

Names and metadata as llama.cpp's own converter writes them (convert_hf_to_gguf.py, gguf-py's constants).
llama.cpp rotates neighbouring dimensions in models of its architecture "llama", so rows of W_q and W_k change
places; in "qwen2" and "qwen3" it rotates halves, as Hugging Face does. There is no vocabulary
("no_vocab"): token ids go in and come out.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.peers.plain import plain
from engine.config import ModelConfig
from engine.errors import TokenjouleError
from engine.rope import inverse_frequencies
from engine.weights import ModelWeights

# architecture: (llama.cpp's name, whether it rotates neighbouring dimensions)
ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", True),
    "MistralForCausalLM": ("llama", True),
    "Qwen2ForCausalLM": ("qwen2", False),
    "Qwen3ForCausalLM": ("qwen3", False),
}


def export(weights: ModelWeights, config: ModelConfig, path: Path) -> None:
    """Write `weights`, matrices in their own dtype, vectors in fp32. Replaces `path` once it is complete.

    Raises `TokenjouleError` for what llama.cpp computes otherwise: sliding windows, yarn, quantised weights.
    """
    import gguf

    name = ARCHITECTURES[config.architecture][0]
    _refuse(config)
    partial = path.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, name)
    writer.add_name("tokenjoule export")
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    if config.rope.type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope.factor)
    types = {
        torch.float32: gguf.GGMLQuantizationType.F32,
        torch.float16: gguf.GGMLQuantizationType.F16,
        torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    }
    kind = types[weights.dtype]
    writer.add_file_type({"F32": 0, "F16": 1, "BF16": 32}[kind.name])  # gguf.LlamaFileType
    for key, tensor in _tensors(weights, config):
        stored = kind if tensor.dim() == 2 else types[torch.float32]
        # numpy has no bf16; a given GGUF type overrides the numpy one
        writer.add_tensor_info(key, tuple(tensor.shape), np.dtype(np.float32), tensor.nbytes, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in _tensors(weights, config):
        writer.write_tensor_data(tensor.contiguous().view(torch.uint8).numpy())
    writer.close()
    partial.replace(path)


def _refuse(config: ModelConfig) -> None:
    if any(window is not None for window in config.windows):
        raise TokenjouleError(
            f"no GGUF of a {config.architecture} with a sliding window: llama.cpp ignores it"
        )
    if config.rope.type == "yarn":
        raise TokenjouleError("no GGUF of a model with rope type yarn: its factors are not exported")
    if config.output_bias or config.mlp_bias:
        raise TokenjouleError("no GGUF of a model with biases on output or MLP")


def _tensors(weights: ModelWeights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under llama.cpp's name; matrices as views or in the weights' dtype, vectors fp32."""
    paired = ARCHITECTURES[config.architecture][1]
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim

    def order(rows: Tensor) -> Tensor:
        """Halves of each head to neighbours: row (half, i) becomes row (i, half)."""
        if not paired:
            return rows
        return rows.unflatten(0, (-1, 2, config.head_dim // 2)).transpose(1, 2).flatten(0, 2)

    yield "token_embd.weight", plain(weights.embedding)
    if config.rope.type == "llama3":
        # llama.cpp divides its own default frequencies by these
        default = 1.0 / config.rope.theta ** (torch.arange(0, config.head_dim, 2) / config.head_dim)
        yield "rope_freqs.weight", (default / inverse_frequencies(config.rope, config.head_dim)[0]).float()
    for index, layer in enumerate(weights.layers):
        to = f"blk.{index}."
        for part, rows in zip("qkv", plain(layer.qkv).split((q, kv, kv)), strict=True):
            yield f"{to}attn_{part}.weight", rows if part == "v" else order(rows)
        if layer.qkv_bias is not None:
            for part, bias in zip("qkv", layer.qkv_bias.float().split((q, kv, kv)), strict=True):
                yield f"{to}attn_{part}.bias", bias if part == "v" else order(bias)
        if layer.q_norm is not None and layer.k_norm is not None:
            yield f"{to}attn_q_norm.weight", layer.q_norm.float()
            yield f"{to}attn_k_norm.weight", layer.k_norm.float()
        gate, up = plain(layer.gate_up).chunk(2)
        yield f"{to}attn_norm.weight", layer.attention_norm.float()
        yield f"{to}attn_output.weight", plain(layer.output)
        yield f"{to}ffn_norm.weight", layer.mlp_norm.float()
        yield f"{to}ffn_gate.weight", gate
        yield f"{to}ffn_up.weight", up
        yield f"{to}ffn_down.weight", plain(layer.down)
    yield "output_norm.weight", weights.head.norm.float()
    if weights.head.weight is not weights.embedding:
        yield "output.weight", plain(weights.head.weight)
