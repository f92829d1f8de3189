"""Writes packed weights as safetensors, one matrix at a time, laid out to be mapped and used in place.

In a file all words come first, then all scales, then the vectors, behind a header padded to a cache line: a
word of 16 rows is then one line of memory, as in a matrix packed while loading. The metadata says of every
words tensor how large the matrix is, "M C", which padding would hide.
Format: https://github.com/huggingface/safetensors#format
"""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from engine import tensors
from engine.config import ModelConfig
from engine.loading import LoadStep, OnProgress, Work, ignore
from engine.schemes import Scheme
from engine.shards import DTYPES, INDEX, SINGLE
from engine.tensors import Projection
from engine.weights import Checkpoint, bias_names, pack

SHARD_BYTES = 5_000_000_000  # as large a file as Hugging Face's own
_LINE = 64  # bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    packs: tuple[int, int] | None = None  # (M, C) of the matrix that these words hold, padding left out

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_packed(
    checkpoint: Checkpoint,
    config: ModelConfig,
    scheme: Scheme,
    directory: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_progress: OnProgress = ignore,
) -> None:
    """The weights of an unpacked checkpoint, packed, into the empty `directory`.

    A file takes whole layers up to `shard_bytes`, one at least. `on_progress` hears of every group of
    tensors. Raises `OSError` where writing fails, `TokenjouleError` for weights that cannot be packed.
    """
    groups = list(_groups(checkpoint, config, scheme))
    shards = _shared_out(groups, shard_bytes)
    placed: dict[str, str] = {}
    done = 0
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with _File(directory / name, [entry for group in shard for entry in group.entries]) as file:
            for group in shard:
                group.write(file)
                done += 1
                on_progress(LoadStep(Work.PACKING, done, len(groups)))
        placed |= {entry.name: name for group in shard for entry in group.entries}
    if len(shards) > 1:
        index = {"metadata": {"total_size": packed_bytes(checkpoint, config, scheme)}, "weight_map": placed}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def packed_bytes(checkpoint: Checkpoint, config: ModelConfig, scheme: Scheme) -> int:
    """What `write_packed` will write, headers aside."""
    return sum(group.nbytes for group in _groups(checkpoint, config, scheme))


class _Group:
    """Tensors that are kept in one file: those of a layer, or an embedding or head."""

    def __init__(
        self, checkpoint: Checkpoint, scheme: Scheme, matrices: list[Projection], norms: list[tuple[str, int]]
    ) -> None:
        self._checkpoint, self._scheme, self._matrices = checkpoint, scheme, matrices
        self._norms = [name for name, _ in norms]
        self.entries: list[_Entry] = []
        for matrix in matrices:
            words, scales = matrix.format(scheme).shapes(*matrix.shape)
            self.entries.append(_Entry(f"{matrix.name}.words", torch.int32, words, matrix.shape))
            self.entries.append(_Entry(f"{matrix.name}.scales", torch.bfloat16, scales))
            if matrix.biased:
                dtypes = [checkpoint.dtype(name) for name in bias_names(checkpoint, matrix)]
                dtype = reduce(torch.promote_types, dtypes)
                self.entries.append(_Entry(f"{matrix.name}.bias", dtype, matrix.shape[:1]))
        self.entries += [_Entry(name, checkpoint.dtype(name), (size,)) for name, size in norms]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)

    def write(self, file: "_File") -> None:
        for matrix in self._matrices:
            packed = pack(self._checkpoint, matrix, matrix.format(self._scheme), torch.device("cpu"))
            file.put(f"{matrix.name}.words", packed.words)
            file.put(f"{matrix.name}.scales", packed.scales)
            if matrix.biased:
                parts = [self._checkpoint.tensor(name) for name in bias_names(self._checkpoint, matrix)]
                file.put(f"{matrix.name}.bias", torch.cat(parts))
        for name in self._norms:
            file.put(name, self._checkpoint.tensor(name))


def _groups(checkpoint: Checkpoint, config: ModelConfig, scheme: Scheme) -> Iterator[_Group]:
    yield _Group(checkpoint, scheme, [tensors.embedding(config)], [])
    for index in range(config.n_layers):
        matrices = list(tensors.layer_matrices(config, index).values())
        yield _Group(checkpoint, scheme, matrices, list(tensors.layer_norms(config, index).values()))
    head = [] if config.tied_head else [tensors.head(config)]
    yield _Group(checkpoint, scheme, head, [tensors.head_norm(config)])


def _shared_out(groups: list[_Group], limit: int) -> list[list[_Group]]:
    """Consecutive groups together up to `limit` bytes."""
    shards: list[list[_Group]] = [[]]
    for group in groups:
        if shards[-1] and sum(held.nbytes for held in shards[-1]) + group.nbytes > limit:
            shards.append([])
        shards[-1].append(group)
    return shards


class _File:
    """One safetensors file: its header and its length at once, its tensors as they come."""

    def __init__(self, path: Path, entries: list[_Entry]) -> None:
        self._unwritten = {entry.name: entry for entry in entries}
        self._offsets: dict[str, int] = {}
        spelled = {dtype: text for text, dtype in DTYPES.items()}
        packs = {entry.name: "{} {}".format(*entry.packs) for entry in entries if entry.packs}
        header: dict[str, object] = {"__metadata__": {"format": "pt", **packs}}
        end = 0
        # Sizes of words are multiples of a line, those of scales of half a line.
        for entry in sorted(entries, key=lambda entry: (_rank(entry.name), -entry.dtype.itemsize)):
            self._offsets[entry.name] = end
            end += entry.nbytes
            header[entry.name] = {
                "dtype": spelled[entry.dtype],
                "shape": entry.shape,
                "data_offsets": [self._offsets[entry.name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _LINE)
        self._start = 8 + len(text)
        self._file = path.open("xb", buffering=0)
        try:
            self._write(len(text).to_bytes(8, "little") + text, 0)
            _allocate(self._file.fileno(), self._start + end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "_File":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                assert not self._unwritten, f"not written: {', '.join(self._unwritten)}"
                os.fsync(self._file.fileno())

    def put(self, name: str, tensor: Tensor) -> None:
        """A tensor of the dtype and shape that the header gives."""
        entry = self._unwritten.pop(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape), name
        flat = tensor.contiguous().flatten().view(torch.uint8).numpy()
        self._write(flat.data, self._start + self._offsets[name])

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        left = memoryview(data)
        while left:
            count = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[count:], offset + count


def _allocate(file: int, size: int) -> None:
    """A disk without room says so before the work, where its file system knows."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _rank(name: str) -> int:
    return 0 if name.endswith(".words") else 1 if name.endswith(".scales") else 2
