"""The model that every arm of a benchmark runs: one set of weights on disk, for us and for the peers.

A preset's random weights are written once into a cache directory in Hugging Face layout, exported from there
to GGUF, and quantised by llama.cpp itself; all of it is found again by a key of shape and seed.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from engine.config import ModelConfig, load_config, parse_config, read_json
from engine.errors import UsageError
from engine.locate import locate
from engine.placement import choose_dtype
from engine.presets import PRESETS
from engine.save import save_quantized
from engine.schemes import NONE
from engine.shards import SafetensorsCheckpoint
from engine.tensors import expected_shapes
from engine.weights import ModelWeights, RandomCheckpoint, load_weights

CPU = torch.device("cpu")
SHARD_BYTES = 2 << 30


def default_cache() -> Path:
    """Where exports go unless told otherwise; a few times the size of the model."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenjoule" / "bench"


class ModelSource(Protocol):
    """What arms need of the model that they run. `raw`: its config.json. `device`: where its weights are."""

    @property
    def model(self) -> str: ...

    @property
    def shape_only(self) -> bool: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def raw(self) -> Mapping[str, Any]: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def weights(self) -> ModelWeights: ...

    def scheme_weights(self, scheme: str) -> ModelWeights: ...


@dataclass(frozen=True)
class Source:
    """`directory` holds config.json and safetensors; `key` names this model's exports in `cache`."""

    model: str
    directory: Path
    shape_only: bool
    dtype: torch.dtype
    cache: Path
    key: str
    device: torch.device = CPU

    @cached_property
    def raw(self) -> Mapping[str, Any]:
        """config.json."""
        return read_json(self.directory / "config.json")

    @cached_property
    def config(self) -> ModelConfig:
        return load_config(self.directory)

    @cached_property
    def weights(self) -> ModelWeights:
        """In `dtype`, loaded once, shared by every arm that does not pack them."""
        return self._load(self.directory)

    def scheme_weights(self, scheme: str) -> ModelWeights:
        """`weights`, or those of the directory that holds them packed."""
        return self.weights if scheme == NONE else self._load(self.packed(scheme))

    def packed(self, scheme: str) -> Path:
        """The directory whose weights are packed as a scheme says, made where it is missing."""
        if scheme == NONE:
            return self.directory
        path = self.cache / self.key / scheme
        if not path.is_dir():
            _say(f"packing {scheme}")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_quantized(str(self.directory), path, scheme)
        return path

    def _load(self, directory: Path) -> ModelWeights:
        config = load_config(directory)
        return load_weights(SafetensorsCheckpoint(directory, config), config, dtype=self.dtype, device=CPU)

    def gguf(self, kind: str) -> Path:
        """The GGUF file of a kind, made where it is missing: `plain`, Q8_0 or Q4_0."""
        from bench.peers import gguf, llama_cpp_api

        path = self.cache / self.key / f"{kind}.gguf"
        if path.is_file():
            return path
        _say(f"writing {kind}.gguf")
        if kind == self.plain:
            gguf.export(self.weights, self.config, path)
        else:
            llama_cpp_api.quantise(self.gguf(self.plain), path, kind)
        return path

    @property
    def plain(self) -> str:
        """llama.cpp's name of `dtype`."""
        return {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}[self.dtype]


def open_source(
    model: str | None, *, random_weights: bool, dtype: str = "auto", cache: Path, seed: int = 0
) -> Source:
    """Find a model, or make a preset's random weights. Raises as `engine.locate` and the config do."""
    where = locate(model)
    if where.preset is not None:
        if not random_weights:
            raise UsageError(f"{where.id} has no weights; add --random-weights (figures are then shape only)")
        raw = PRESETS[where.preset] | {"shape_only": True}
        key = f"{where.preset}-{_digest(raw, seed)}"
        directory = cache / key / "checkpoint"
        _once(directory, lambda to: _write_random(raw, seed, to))
    else:
        if random_weights:
            raise UsageError(f"{where.id} has weights of its own; --random-weights is for presets")
        assert where.directory is not None
        directory = where.directory
        files = sorted(directory.glob("*.safetensors"))
        key = (
            f"{where.id}-{_digest([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files], dtype)}"
        )
    config = load_config(directory)
    if config.quantization is not None:
        raise UsageError(f"{where.id} is packed as {config.quantization.name} already; name the original")
    return Source(where.id, directory, config.shape_only, choose_dtype(dtype, config), cache, key)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _once(directory: Path, write: Callable[[Path], None]) -> None:
    """Make a directory in one piece: whoever is interrupted leaves nothing that looks complete."""
    if directory.is_dir():
        return
    partial = directory.with_name(f"{directory.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        write(partial)
        partial.rename(directory)
    except OSError:
        if not directory.is_dir():  # another process may have been first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_random(raw: Mapping[str, Any], seed: int, directory: Path) -> None:
    """config.json and shards of at most SHARD_BYTES, with the index that names them."""
    from safetensors.torch import save_file

    _say(f"writing random weights to {directory.parent}")
    config = parse_config(raw, {}, "preset")
    checkpoint = RandomCheckpoint(config, seed)
    (directory / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    placed: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    held = 0
    for name in [*expected_shapes(config), None]:
        tensor = None if name is None else checkpoint.tensor(name)
        if shard and (tensor is None or held + tensor.nbytes > SHARD_BYTES):
            file = f"model-{len(set(placed.values())) + 1:05}.safetensors"
            save_file(shard, directory / file, metadata={"format": "pt"})
            placed |= dict.fromkeys(shard, file)
            shard, held = {}, 0
        if name is not None and tensor is not None:
            shard[name] = tensor
            held += tensor.nbytes
    index = {"metadata": {}, "weight_map": placed}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
