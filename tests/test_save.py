"""Packed while loading and packed and saved are the same model, bit for bit; what a saved one holds."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import quantize as command
from engine import save
from engine.config import load_config
from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.locate import BUNDLED
from engine.model import Model
from engine.save import save_quantized
from engine.schemes import SCHEMES
from engine.shards import SafetensorsCheckpoint
from engine.weights import ModelWeights, load_weights, memory_bytes
from kernels.api import HeadWeights, LayerWeights, load
from kernels.quantize import Matrix, Quantized, dequantize, quantize
from tests import tiny
from tests.cli import PROMPT

CPU = torch.device("cpu")
FILE = "model.safetensors"
MATRICES = ("qkv", "output", "gate_up", "down")


def weights_of(
    directory: Path, scheme: str | None = None, dtype: torch.dtype = torch.float32
) -> ModelWeights:
    config = load_config(directory)
    checkpoint = SafetensorsCheckpoint(directory, config)
    chosen = SCHEMES[scheme] if scheme else None
    return load_weights(checkpoint, config, dtype=dtype, device=CPU, scheme=chosen)


def parts(weights: ModelWeights) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor, those of packed matrices apart."""
    held: dict[str, Matrix | None] = {"embedding": weights.embedding, "norm": weights.head.norm}
    held["head"] = weights.head.weight
    for index, layer in enumerate(weights.layers):
        held |= {f"{index}.{name}": getattr(layer, name) for name in LayerWeights.__slots__}
    for name, matrix in held.items():
        if isinstance(matrix, Quantized):
            yield f"{name}.words", matrix.words
            yield f"{name}.scales", matrix.scales
        elif matrix is not None:
            yield name, matrix


def assert_same(one: ModelWeights, two: ModelWeights) -> None:
    pairs = zip(parts(one), parts(two), strict=True)
    for (name, mine), (other, theirs) in pairs:
        assert name == other
        assert mine.dtype is theirs.dtype and torch.equal(mine, theirs), name


# Odd sizes, tied and separate heads, biases, qk-norm.
VARIANTS = ("llama-head-dim", "llama-tied", "llama-biases", "qwen2", "qwen3-biases")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_while_loading_is_packed_and_saved(tmp_path: Path, variant: str, scheme: str) -> None:
    tiny.write(tmp_path / "source", variant)
    plain, packed = weights_of(tmp_path / "source"), weights_of(tmp_path / "source", scheme)
    written = save_quantized(str(tmp_path / "source"), tmp_path / "target", scheme)
    saved = weights_of(tmp_path / "target")
    assert_same(packed, saved)
    for mine, theirs in zip(packed.layers, plain.layers, strict=True):
        for name in MATRICES:
            whole = quantize(getattr(theirs, name), SCHEMES[scheme].layers)
            assert torch.equal(getattr(mine, name).words, whole.words)
            assert torch.equal(getattr(mine, name).scales, whole.scales)
    assert (saved.head.weight is saved.embedding) == (variant == "llama-tied")
    assert isinstance(saved.head.weight, Quantized)
    assert saved.head.weight.format == SCHEMES[scheme].head
    assert packed.parameters() == saved.parameters() == plain.parameters()
    size = (tmp_path / "target" / FILE).stat().st_size
    assert written <= size <= written + 30_000
    matrices = memory_bytes(load_config(tmp_path / "target"), torch.float32, SCHEMES[scheme])
    vectors = sum(t.nbytes for name, t in parts(saved) if not name.endswith(("words", "scales")))
    assert written == matrices + vectors


def widened(weights: ModelWeights) -> ModelWeights:
    """The same numbers, unpacked."""

    def wide(matrix: Any) -> torch.Tensor:
        return dequantize(matrix, torch.float32)

    layers = tuple(
        dataclasses.replace(layer, **{name: wide(getattr(layer, name)) for name in MATRICES})
        for layer in weights.layers
    )
    return ModelWeights(
        wide(weights.embedding), layers, HeadWeights(weights.head.norm, wide(weights.head.weight))
    )


def logits(weights: ModelWeights, directory: Path) -> torch.Tensor:
    model = Model(load_config(directory), weights, load("torch", CPU))
    tokens = tiny.prompt(12)
    cache = model.new_cache(len(tokens))
    return model.forward(tokens, cache.extend({cache.add_row(): len(tokens)}), cache)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_torch_backend_computes_with_the_numbers_that_are_stored(tmp_path: Path, variant: str) -> None:
    tiny.write(tmp_path, variant)
    int4, int8 = weights_of(tmp_path, "int4"), weights_of(tmp_path, "int8")
    assert torch.equal(logits(int4, tmp_path), logits(widened(int4), tmp_path))
    assert torch.equal(logits(int8, tmp_path), logits(widened(int8), tmp_path))
    exact = logits(weights_of(tmp_path), tmp_path)
    near, far = ((logits(w, tmp_path) - exact).norm() / exact.norm() for w in (int8, int4))
    assert 0 < near < far / 4  # int8 rounds to 1/254 of a group's largest number, int4 to 1/16
    assert far < 1


def test_packing_reads_the_checkpoints_own_numbers_whatever_the_activations_are(tmp_path: Path) -> None:
    """fp32 weights are not rounded to bf16 first, and the vectors follow the dtype that was asked for."""
    tiny.write(tmp_path, "qwen2")
    fp32, bf16 = weights_of(tmp_path, "int8"), weights_of(tmp_path, "int8", torch.bfloat16)
    assert bf16.dtype is torch.bfloat16 and bf16.layers[0].qkv_bias.dtype is torch.bfloat16  # type: ignore[union-attr]
    assert torch.equal(fp32.layers[0].down.words, bf16.layers[0].down.words)  # type: ignore[union-attr]


def test_shards_are_written_and_read_back(tmp_path: Path) -> None:
    tiny.write(tmp_path / "source", "qwen3", shards=True)
    save_quantized(str(tmp_path / "source"), tmp_path / "one", "int8")
    save_quantized(str(tmp_path / "source"), tmp_path / "many", "int8", shard_bytes=40_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    held = {name: file for file in files for name in load_file(tmp_path / "many" / file)}
    assert index["weight_map"] == held
    assert_same(weights_of(tmp_path / "one"), weights_of(tmp_path / "many"))


def test_saved_weights_are_mapped_and_lie_on_cache_lines(tmp_path: Path) -> None:
    save_quantized(str(BUNDLED), tmp_path / "target", "int4")
    weights = weights_of(tmp_path / "target")
    mapped = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(tmp_path / "target" / FILE))
    ]
    packed = [(n, t) for n, t in parts(weights) if n.endswith(("words", "scales"))]
    assert len(packed) == 2 * (2 + 4 * len(weights.layers))  # the tied head counted again
    for name, tensor in packed:
        assert any(start <= tensor.data_ptr() < end for start, end in mapped), name
        assert tensor.data_ptr() % (64 if name.endswith("words") else 32) == 0


def test_a_directory_takes_along_what_it_needs_and_says_what_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(BUNDLED, source)
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
    target.mkdir()  # an empty one is taken
    save_quantized(str(source), target, "int8")
    assert sorted(path.name for path in target.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        FILE,
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    with (
        Engine.load(BUNDLED, quantize="int8", backend="torch", energy_source="simulated") as loaded,
        Engine.load(target, backend="torch", energy_source="simulated") as saved,
    ):
        one, two = loaded.generate(PROMPT), saved.generate(PROMPT)
        assert one.token_ids == two.token_ids
        assert one.answer == "70"
        assert saved.origin.card.quantization == loaded.origin.card.quantization == "int8"
        assert two.to_json()["model"]["quantization"] == "int8"
        assert saved.encode("1+1=", chat=True) == saved.tokenizer.encode("1+1=", add_special_tokens=False)
        assert loaded.origin.dims.weight_bytes == 1 + 2 / 128
        assert loaded.origin.dims.cache_bytes == 4
        assert not saved.origin.card.shape_only


def test_random_weights_stay_shape_only_and_need_no_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300}
    preset = {**save.PRESETS["qwen3-0.6b"], **small}
    monkeypatch.setitem(save.PRESETS, "qwen3-0.6b", preset)
    arguments = ("preset:qwen3-0.6b", str(tmp_path / "target"), "--quantize", "int4", "--quiet")
    assert command.main(arguments) == 2
    assert command.main((*arguments, "--random-weights", "--seed", "5")) == 0
    with (
        Engine.load(tmp_path / "target", backend="torch", energy_source="simulated") as saved,
        Engine.load(
            "preset:qwen3-0.6b",
            random_weights=True,
            seed=5,
            quantize="int4",
            backend="torch",
            energy_source="simulated",
        ) as drawn,
    ):
        assert saved.origin.card.shape_only
        assert saved.origin.card.quantization == "int4"
        first, second = (e.generate("ab", max_new_tokens=6, ignore_eos=True) for e in (saved, drawn))
        assert first.token_ids == second.token_ids


@pytest.mark.parametrize("seed", ["-1", str(1 << 32), "9" * 30])
def test_a_seed_out_of_range_is_refused(
    seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        str(BUNDLED),
        str(tmp_path / "target"),
        "--quantize",
        "int8",
        "--random-weights",
        "--seed",
        seed,
    )
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == f"tokenjoule: seed must lie in [0, 2^32), not {seed}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_seed_without_random_weights_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main((str(BUNDLED), str(tmp_path / "t"), "--quantize", "int8", "--seed", "7")) == 2
    assert capsys.readouterr().err == "tokenjoule: --seed goes with --random-weights\n"


def test_what_is_no_file_is_not_taken_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(BUNDLED, source)
    (source / "LICENSES").mkdir()  # as REUSE wants it
    (source / "NOTICE").symlink_to(tmp_path / "absent")
    (source / "LICENSE").write_text("terms")
    save_quantized(str(source), tmp_path / "target", "int8")
    taken = {path.name for path in (tmp_path / "target").iterdir()}
    assert "LICENSE" in taken and not taken & {"LICENSES", "NOTICE"}


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    tiny.write(tmp_path / "source", "llama-gqa")
    tensors = load_file(tmp_path / "source" / FILE)
    tensors["model.layers.2.self_attn.v_proj.weight"][3, 3] = torch.nan
    save_file(tensors, tmp_path / "source" / FILE)
    with pytest.raises(TokenjouleError, match=r"layers\.2\.self_attn\.qkv_proj: .*not finite"):
        weights_of(tmp_path / "source", "int8")
    with pytest.raises(TokenjouleError, match="not finite"):
        save_quantized(str(tmp_path / "source"), tmp_path / "target", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(step: object) -> None:
        [partial] = tmp_path.iterdir()
        assert partial.name.startswith(".target.")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_quantized(str(BUNDLED), tmp_path / "target", "int8", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
