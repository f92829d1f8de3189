"""Checkpoints that are absent, broken or foreign are refused with the file or the tensor named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import load_config, parse_config
from engine.errors import TokenjouleError
from engine.presets import PRESETS
from engine.shards import SafetensorsCheckpoint
from engine.tensors import expected_shapes
from engine.weights import RandomCheckpoint
from tests import tiny

FILE = "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny.write(tmp_path, "llama-gqa")
    return tmp_path


def refusal(directory: Path) -> str:
    with pytest.raises(TokenjouleError) as caught:
        tiny.load_model(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_weights_at_all(directory: Path) -> None:
    (directory / FILE).unlink()
    assert "has no model.safetensors" in refusal(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is there, but only safetensors are read" in refusal(directory)


@pytest.mark.parametrize("size", [0, 5, 200, -100])
def test_a_truncated_file(directory: Path, size: int) -> None:
    raw = (directory / FILE).read_bytes()
    (directory / FILE).write_bytes(raw[:size])
    assert "is not a complete safetensors file" in refusal(directory)


def test_an_absent_shard(tmp_path: Path) -> None:
    tiny.write(tmp_path, "llama-gqa", shards=True)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"lacks the shard {shard.name}" in refusal(tmp_path)


def test_a_shard_without_what_the_index_places_there(tmp_path: Path) -> None:
    tiny.write(tmp_path, "llama-gqa", shards=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    name = next(iter(index["weight_map"]))
    shard = index["weight_map"][name]
    tensors = load_file(tmp_path / shard)
    del tensors[name]
    save_file(tensors, tmp_path / shard)
    assert f"does not hold {name}" in refusal(tmp_path)


def test_a_wrong_shape_is_named_with_both_shapes(directory: Path) -> None:
    tensors = load_file(directory / FILE)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, directory / FILE)
    message = refusal(directory)
    assert name in message
    assert "[48, 71], expected [48, 72]" in message


def test_missing_and_foreign_tensors(directory: Path) -> None:
    tensors = load_file(directory / FILE)
    bias = {**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}
    save_file(bias, directory / FILE)
    assert "model.layers.0.self_attn.q_proj.bias" in refusal(directory)
    del tensors["model.norm.weight"]
    save_file(tensors, directory / FILE)
    assert "lacks 1 tensors, the first is model.norm.weight" in refusal(directory)


def test_a_dtype_that_is_no_float(directory: Path) -> None:
    tensors = load_file(directory / FILE)
    tensors["model.norm.weight"] = torch.ones(48, dtype=torch.int8)
    save_file(tensors, directory / FILE)
    assert "dtype I8, expected F32, F16, BF16" in refusal(directory)


def test_redundant_tensors_are_passed_over(tmp_path: Path) -> None:
    tiny.write(tmp_path, "llama-tied")
    tensors = load_file(tmp_path / FILE)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(
        {
            **tensors,
            "lm_head.weight": embedding.clone(),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        },
        tmp_path / FILE,
    )
    assert tiny.load_model(tmp_path).parameters == sum(
        t.numel() for name, t in tensors.items() if name in expected_shapes(load_config(tmp_path))
    )


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_config_that_is_no_object(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    assert "config.json" in refusal(directory)


def test_random_weights_are_reproducible_and_never_zero() -> None:
    config = parse_config({**PRESETS["llama-3.2-1b"], "num_hidden_layers": 1, "vocab_size": 64}, {}, "test")
    name = "model.layers.0.mlp.gate_proj.weight"
    one, two = RandomCheckpoint(config, 1).tensor(name), RandomCheckpoint(config, 1).tensor(name)
    other = RandomCheckpoint(config, 2).tensor(name)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.float().std() == pytest.approx(0.02, rel=0.01)
    assert (one == 0).float().mean() < 1e-3


def test_the_checkpoint_reads_what_it_checked(directory: Path) -> None:
    config = load_config(directory)
    checkpoint = SafetensorsCheckpoint(directory, config)
    for name, shape in expected_shapes(config).items():
        assert tuple(checkpoint.tensor(name).shape) == shape
