"""The safetensors files of a directory: found, checked against what they have to hold, and read.

A tensor is either mapped, which costs memory only where and while it is used, or read in pieces past the
mapping, for what is copied anyway: pages of a mapping that were read count as the process's memory.
Format: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig, read_json
from engine.errors import TokenjouleError
from engine.schemes import Scheme
from engine.tensors import Stored, stored_tensors
from kernels.quantize import PANEL

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}
PIECE_BYTES = 2 << 20  # read at a time


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes are. `dtype`: as the file spells it."""

    path: Path
    file: safe_open
    offset: int
    dtype: str
    shape: tuple[int, ...]
    packs: str | None  # "M C" of a packed matrix


class SafetensorsCheckpoint:
    """The safetensors files of a Hugging Face directory, opened and checked against `config`.

    `scheme`: how its matrices are packed, None where they are not. Raises `TokenjouleError` for absent,
    truncated or foreign files and for missing, unexpected or wrong tensors, naming the file or the tensor.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self.scheme: Scheme | None = config.quantization
        self._places: dict[str, _Place] = {}
        # One for all pieces: made anew each time, between arrays that stay, they leave gaps in the heap.
        self._buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8)
        for path, names in _shards(directory):
            held = _open(path)
            for name in names if names is not None else held:
                if name not in held:
                    raise TokenjouleError(f"{path} does not hold {name}, which the index places there")
                self._places[name] = held[name]
        self._check(stored_tensors(config), config, directory)
        if config.tied_head and "lm_head.weight" in self._places and not self._same_head():
            raise TokenjouleError(
                f"{directory}: tie_word_embeddings is true, but lm_head.weight is not the embedding"
            )

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._places[name].dtype]

    def tensor(self, name: str) -> Tensor:
        """All of it, mapped: to be read, not to be written."""
        place = self._places[name]
        try:
            return place.file.get_tensor(name)
        except SafetensorError as error:
            raise TokenjouleError(f"{place.path}: cannot read {name}: {error}") from error

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The rows of a matrix from top to bottom, some whole panels at a time; the last may be ragged.

        Each piece is overwritten by the next, of whatever matrix.
        """
        place = self._places[name]
        dtype = DTYPES[place.dtype]
        rows, columns = place.shape
        row_bytes = columns * dtype.itemsize
        at_once = max(PIECE_BYTES // (row_bytes * PANEL), 1) * PANEL
        if at_once * row_bytes > len(self._buffer):
            self._buffer = torch.empty(at_once * row_bytes, dtype=torch.uint8)
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(place.offset)
                for first in range(0, rows, at_once):
                    held = self._buffer[: min(at_once, rows - first) * row_bytes]
                    unread = memoryview(held.numpy().data)
                    while unread:
                        count = file.readinto(unread)
                        if not count:
                            raise TokenjouleError(f"{place.path} ends within {name}")
                        unread = unread[count:]
                    yield held.view(dtype).view(-1, columns)
        except OSError as error:
            raise TokenjouleError(f"cannot read {place.path}: {error.strerror}") from error

    def _check(self, expected: Mapping[str, Stored], config: ModelConfig, directory: Path) -> None:
        missing = [name for name in expected if name not in self._places]
        if missing:
            raise TokenjouleError(f"{directory} lacks {len(missing)} tensors, the first is {missing[0]}")
        for name, stored in expected.items():
            place = self._places[name]
            if place.shape != stored.shape:
                raise TokenjouleError(
                    f"{place.path}: {name} has shape {list(place.shape)}, expected {list(stored.shape)}"
                )
            if stored.packs is not None and place.packs != "{} {}".format(*stored.packs):
                raise TokenjouleError(
                    f"{place.path}: {name} packs a matrix of {place.packs or 'unknown size'}, expected "
                    f"{'{} {}'.format(*stored.packs)}"
                )
            if DTYPES.get(place.dtype) not in stored.dtypes:
                known = ", ".join(text for text, dtype in DTYPES.items() if dtype in stored.dtypes)
                raise TokenjouleError(f"{place.path}: {name} has dtype {place.dtype}, expected {known}")
        foreign = [name for name in self._places if name not in expected and not _redundant(name, config)]
        if foreign:
            raise TokenjouleError(
                f"{directory} holds {len(foreign)} tensors that a {config.architecture} of this config "
                f"does not have, the first is {foreign[0]}"
            )

    def _same_head(self) -> bool:
        head, embedding = self._places["lm_head.weight"], self._places["model.embed_tokens.weight"]
        if (head.dtype, head.shape) != (embedding.dtype, embedding.shape):
            return False
        pairs = zip(
            map(torch.clone, self.pieces("lm_head.weight")),
            self.pieces("model.embed_tokens.weight"),
            strict=True,
        )
        return all(torch.equal(*pair) for pair in pairs)


def _redundant(name: str, config: ModelConfig) -> bool:
    """Tensors some exporters write although the config already determines them."""
    if config.quantization is not None:
        return False
    return name.endswith("rotary_emb.inv_freq") or (config.tied_head and name == "lm_head.weight")


def _shards(directory: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """(file, the names it must hold; None for all it has)."""
    if (directory / INDEX).is_file():
        placed = read_json(directory / INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(f, str) for f in placed.values()):
            raise TokenjouleError(f"{directory / INDEX} has no weight_map")
        for shard in sorted(set(placed.values())):
            if not (directory / shard).is_file():
                raise TokenjouleError(f"{directory} lacks the shard {shard}, which {INDEX} names")
            yield directory / shard, [name for name, file in placed.items() if file == shard]
    elif (directory / SINGLE).is_file():
        yield directory / SINGLE, None
    else:
        other = next((f.name for f in directory.glob("*.bin")), None)
        hint = f"; {other} is there, but only safetensors are read" if other else ""
        raise TokenjouleError(f"{directory} has no {SINGLE} and no {INDEX}{hint}")


def _open(path: Path) -> dict[str, _Place]:
    """What a file holds. The library checks header and length; the offsets, which it keeps, are read here."""
    try:
        file = safe_open(path, framework="pt")
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(size))
        return {
            name: _Place(
                path,
                file,
                8 + size + entry["data_offsets"][0],
                entry["dtype"],
                tuple(entry["shape"]),
                header.get("__metadata__", {}).get(name),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (SafetensorError, OSError, ValueError) as error:
        raise TokenjouleError(f"{path} is not a complete safetensors file: {error}") from error
