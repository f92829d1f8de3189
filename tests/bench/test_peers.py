"""The peers compute our model: transformers to the bit, llama.cpp from the exported GGUF to its rounding."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import contender
from bench.contender import fill
from bench.engine_contender import EngineContender
from bench.peers.gguf import export
from bench.source import Source, open_source
from engine.config import load_config
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.shards import SafetensorsCheckpoint
from engine.weights import load_weights
from kernels.api import load
from tests import tiny

CPU = torch.device("cpu")
PROMPT = [1, 9, 4, 13, 7, 9, 3, 18, 2]
llama_cpp = pytest.mark.skipif(
    find_spec("llama_cpp") is None or find_spec("gguf") is None,
    reason="llama-cpp-python and gguf are not installed: pip install -e '.[peers]'",
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contender, "cores", lambda: 1)  # on a busy machine a second thread waits, and long


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(None, random_weights=False, dtype="bf16", cache=tmp_path_factory.mktemp("cache"))


def greedy(prefill: Callable[[list[int]], Tensor], prompt: list[int], tokens: int) -> list[int]:
    """By prefill alone."""
    found: list[int] = []
    for _ in range(tokens):
        found.append(int(prefill([*prompt, *found]).argmax()))
    return found


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def test_transformers_on_our_tensors_gives_our_logits(bundled: Source) -> None:
    from bench.peers.transformers_peer import Transformers

    theirs, ours = Transformers(bundled), EngineContender(bundled, "torch", "none")
    assert distance(theirs.prefill(PROMPT), ours.prefill(PROMPT)) < 0.01  # equal, on as many threads
    filled = fill(bundled.config, torch.bfloat16, 2, 21)
    steps = theirs.start(filled, 2)
    found = steps.logits()
    assert found.shape == (2, 20)
    # another order of sums: the static cache is longer than what it holds, and masked
    assert distance(found, ours.start(filled, 2).logits()) < 0.02
    weights = sum(matrix.nbytes for matrix in parameters(bundled))
    cached = 2 * 24 * 4 * 2 * 2 * 32 * 2  # rows · positions · layers · keys and values · heads · dims · bytes
    assert steps.bytes == weights + cached


def parameters(source: Source) -> list[Tensor]:
    """Every tensor of the model once; a tied head is the embedding."""
    weights = source.weights
    layers = [getattr(layer, name) for layer in weights.layers for name in type(layer).__slots__]
    return [t for t in (weights.embedding, weights.head.norm, *layers) if t is not None]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_each_cache_of_transformers_rolls_back(bundled: Source, kind: str) -> None:
    from bench.peers.transformers_peer import DynamicDecoding, StaticDecoding, build

    model = build(bundled.raw, bundled.config, bundled.weights)
    layers = fill(bundled.config, torch.bfloat16, 2, 21).layers()
    before = [keys.clone() for keys, _ in layers]
    decoding = StaticDecoding(model, layers, 24) if kind == "static" else DynamicDecoding(model, layers)
    first = [decoding.step().clone() for _ in range(3)]
    decoding.rollback()
    again = [decoding.step().clone() for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, (b, _) in zip(before, layers, strict=True)), "ours is left alone"


@llama_cpp
@pytest.mark.parametrize(("kind", "apart"), [("BF16", 0.04), ("Q8_0", 0.05), ("Q4_0", 0.25)])
def test_llama_cpp_computes_the_exported_model(bundled: Source, kind: str, apart: float) -> None:
    from bench.peers.llama_cpp_peer import LlamaCpp

    theirs, ours = LlamaCpp(bundled, kind), EngineContender(bundled, "torch", "none")
    expected = ours.prefill(PROMPT)
    assert distance(theirs.prefill(PROMPT), expected) < apart
    wrong = [*PROMPT[:-2], PROMPT[-1], PROMPT[-2]]
    assert distance(theirs.prefill(wrong), expected) > 2 * apart, "another order of tokens is told apart"
    if kind == "BF16":
        prompt = bundled_prompt(bundled)
        assert greedy(theirs.prefill, prompt, 8) == greedy(ours.prefill, prompt, 8)
    theirs.close()


def bundled_prompt(source: Source) -> list[int]:
    from engine.tokenizer import Tokenizer

    return Tokenizer.load(source.directory).encode("47+35-18+6=")


@llama_cpp
def test_llama_cpp_decodes_every_row_behind_the_cached_positions(bundled: Source) -> None:
    """The state of one row is restored in contexts of one and of three; each row goes on as ours does."""
    from bench.peers.llama_cpp_peer import LlamaCpp, LlamaDecoding

    theirs = LlamaCpp(bundled, "BF16")
    ours = EngineContender(bundled, "torch", "none")
    draw = torch.Generator().manual_seed(21)
    cached = torch.randint(20, (21,), generator=draw).tolist()  # what the state was computed from
    expected = int(ours.prefill([*cached, 1]).argmax())
    for rows in (1, 3):
        filled = fill(bundled.config, torch.bfloat16, rows, 21)
        for flash in ("flash attention", "plain attention"):
            decoding = LlamaDecoding(theirs, filled, 2, flash)
            for _ in range(2):
                decoding.step()
                assert decoding._tokens == [expected] * rows
                decoding.step()
                assert len(set(decoding._tokens)) == 1
                decoding.rollback()
            decoding.close()
    one, three = (theirs.step_bytes(rows, 24) for rows in (1, 3))
    assert three - one == 2 * 24 * 4 * 2 * 2 * 32 * 2
    theirs.close()


@llama_cpp
def test_a_state_in_an_unknown_form_is_refused() -> None:
    from bench.peers.llama_cpp_api import state_for_rows

    one, many = b"HEAD\x01\0\0\0abcd", b"HEAD\x03\0\0\0abcd" + bytes(8)
    assert state_for_rows(b"HEAD\x01\0\0\0efghij", one, many) == b"HEAD\x03\0\0\0efghij" + bytes(8)
    with pytest.raises(TokenjouleError, match="another way"):
        state_for_rows(one, one, b"HEAD\x03\0\0\0abXd" + bytes(8))


@llama_cpp
@pytest.mark.parametrize(
    "variant",
    ["llama-gqa", "llama-tied", "llama-head-dim", "llama-rope-llama3", "llama-rope-linear", "qwen2", "qwen3"],
)
def test_every_architecture_is_exported_right(variant: str, tmp_path: Path) -> None:
    from bench.peers.llama_cpp_api import LlamaContext, LlamaModel

    tiny.write(tmp_path, variant)
    config = load_config(tmp_path)
    weights = load_weights(SafetensorsCheckpoint(tmp_path, config), config, dtype=torch.float32, device=CPU)
    export(weights, config, tmp_path / "model.gguf")
    model = LlamaModel(tmp_path / "model.gguf")
    context = LlamaContext(model, rows=1, length=100, threads=1)
    prompt = tiny.prompt(90)  # beyond the context before its extension, 64
    found = torch.from_numpy(context.prefill(prompt).copy())
    ours = Model(config, weights, load("torch", CPU))
    cache = ours.new_cache(90)
    expected = ours.forward(prompt, cache.extend({cache.add_row(): 90}), cache)[0][0]
    assert distance(found, expected) < 5e-3  # keys and values in fp16
    context.close()
    model.close()


@llama_cpp
@pytest.mark.parametrize(
    ("variant", "reason"),
    [("mistral-window", "sliding window"), ("llama-rope-yarn", "yarn"), ("llama-biases", "biases")],
)
def test_what_llama_cpp_computes_otherwise_is_not_exported(variant: str, reason: str, tmp_path: Path) -> None:
    tiny.write(tmp_path, variant)
    config = load_config(tmp_path)
    weights = load_weights(SafetensorsCheckpoint(tmp_path, config), config, dtype=torch.float32, device=CPU)
    with pytest.raises(TokenjouleError, match=reason):
        export(weights, config, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob("*.partial"))


@llama_cpp
def test_a_file_holds_every_tensor_in_the_model_s_dtype(bundled: Source) -> None:
    import gguf

    tensors = {t.name: t for t in gguf.GGUFReader(bundled.gguf("BF16")).tensors}
    assert len(tensors) == 2 + 9 * bundled.config.n_layers
    assert {t.tensor_type.name for name, t in tensors.items() if "norm" not in name} == {"BF16"}
    elements = sum(math.prod(int(n) for n in t.shape) for t in tensors.values())
    assert elements == bundled.weights.parameters()
    assert bundled.gguf("BF16").stat().st_mtime_ns == bundled.gguf("BF16").stat().st_mtime_ns


def test_a_model_with_weights_takes_no_random_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights of its own"):
        open_source(None, random_weights=True, cache=tmp_path)
    with pytest.raises(UsageError, match="add --random-weights"):
        open_source("preset:llama-3.2-1b", random_weights=False, cache=tmp_path)


def test_random_weights_are_written_once_and_load_as_they_are(tmp_path: Path, monkeypatch: Any) -> None:
    from bench import source
    from engine.presets import PRESETS
    from engine.weights import RandomCheckpoint

    small = {**PRESETS["llama-3.2-1b"], **tiny.SHAPE, "head_dim": 12, "num_hidden_layers": 2}
    monkeypatch.setitem(PRESETS, "small", {k: v for k, v in small.items() if not k.endswith("token_id")})
    monkeypatch.setattr(source, "SHARD_BYTES", 20_000)
    found = open_source("preset:small", random_weights=True, cache=tmp_path, seed=3)
    assert found.shape_only and found.config.shape_only
    assert len(list(found.directory.glob("*.safetensors"))) > 2
    expected = RandomCheckpoint(found.config, 3).tensor("model.layers.1.mlp.down_proj.weight")
    assert torch.equal(found.weights.layers[1].down, expected)
    written = (found.directory / "config.json").stat().st_mtime_ns
    again = open_source("preset:small", random_weights=True, cache=tmp_path, seed=3)
    assert (again.directory / "config.json").stat().st_mtime_ns == written
    assert open_source("preset:small", random_weights=True, cache=tmp_path, seed=4).key != found.key
    assert not list(tmp_path.rglob("*partial*"))
