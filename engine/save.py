"""A quantised model as a directory: packed weights, config.json, and the source's other files."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.config import read_json
from engine.errors import TokenjouleError, UsageError
from engine.loading import OnProgress, ignore
from engine.locate import Location, locate
from engine.packed import SHARD_BYTES, packed_bytes, write_packed
from engine.presets import PRESETS
from engine.schemes import KEY, SCHEMES
from engine.source import open_checkpoint, read_config

# A thinking format is part of generation_config.json.
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.jinja", "LICENSE*", "NOTICE*"),
)


def save_quantized(
    source: str,
    target: Path,
    quantize: str,
    *,
    random_weights: bool = False,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    on_progress: OnProgress = ignore,
) -> int:
    """Write the model `source` to the directory `target`, packed as `quantize` says; returns its bytes.

    `target` appears when it is complete. Raises `TokenjouleError` where it holds something or lies within
    the source, where the source cannot be read or is quantised already, and where the disk is full.
    """
    if quantize not in SCHEMES:
        raise UsageError(f"unknown quantisation {quantize!r}; known: {', '.join(SCHEMES)}")
    scheme = SCHEMES[quantize]
    where = locate(source)
    target = _free_place(target, where)
    config = read_config(where, random_weights=random_weights)
    if config.quantization is not None:
        raise TokenjouleError(f"{source} is quantised already, as {config.quantization.name}")
    checkpoint = open_checkpoint(
        where, config, random_weights=random_weights, seed=seed, device=torch.device("cpu")
    )
    needed = packed_bytes(checkpoint, config, scheme)
    raw = {**_raw_config(where), KEY: scheme.to_json()}
    if random_weights:
        raw["shape_only"] = True
    with _beside(target) as directory:
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise TokenjouleError(
                f"{target} takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB of its disk are free"
            )
        write_packed(
            checkpoint,
            config,
            scheme,
            directory,
            shard_bytes=shard_bytes,
            on_progress=on_progress,
        )
        if where.directory is not None:
            found = (file for name in COPIED for file in where.directory.glob(name))
            for file in found:
                if file.is_file():  # not the directory LICENSES, nor a link to nothing
                    shutil.copyfile(file, directory / file.name)
        (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    return needed


def _free_place(target: Path, where: Location) -> Path:
    """`target`, resolved, if a directory can be made there."""
    target = target.expanduser().resolve()
    if where.directory is not None and target.is_relative_to(where.directory.resolve()):
        raise TokenjouleError(f"{target} is within the source, {where.directory}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TokenjouleError(f"{target} exists already")
    if not target.parent.is_dir():
        raise TokenjouleError(f"no such directory: {target.parent}")
    return target


def _raw_config(where: Location) -> dict[str, Any]:
    if where.preset is not None:
        return PRESETS[where.preset]
    assert where.directory is not None
    return read_json(where.directory / "config.json")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A directory that becomes `target` at the end, or goes where something fails."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir()
        yield partial
        partial.rename(target)  # an empty directory there gives way, one that has been filled does not
    except OSError as error:
        raise TokenjouleError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
