"""From a checkpoint's tensors to the weights of the stages: fused, in the model's dtype, packed if asked.

A tensor that is used as the file has it stays mapped; what is fused, converted or packed is made of pieces,
so that loading takes no more memory than the weights and a few pieces.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine import tensors
from engine.config import ModelConfig
from engine.errors import TokenjouleError, UsageError
from engine.loading import LoadStep, OnProgress, Work, ignore
from engine.memory import give_back
from engine.schemes import Scheme
from engine.tensors import Projection, expected_shapes
from kernels.api import HeadWeights, LayerWeights
from kernels.quantize import PANEL, Format, Matrix, Quantized, quantize

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """`embedding` (V, E); with a tied head `head.weight` is the same object."""

    embedding: Matrix
    layers: tuple[LayerWeights, ...]
    head: HeadWeights

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations, and of every matrix that is not packed."""
        return self.head.norm.dtype

    def parameters(self) -> int:
        """How many numbers the model has; a tied head is counted once."""
        held: list[Matrix] = [self.embedding, self.head.norm]
        if self.head.weight is not self.embedding:
            held.append(self.head.weight)
        for layer in self.layers:
            held += [t for name in LayerWeights.__slots__ if (t := getattr(layer, name)) is not None]
        return sum(matrix.numel() for matrix in held)


class Checkpoint(Protocol):
    """Named tensors: those of `expected_shapes`, or with a `scheme` those of `packed_tensors`."""

    scheme: Scheme | None

    def dtype(self, name: str) -> torch.dtype: ...

    def tensor(self, name: str) -> Tensor: ...

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A matrix from top to bottom, whole panels but for the last piece; valid until the next is taken."""


class RandomCheckpoint:
    """Weights drawn from N(0, 0.02²), norms 1, biases 0: the exact shapes of a model without a download.

    Figures from them are about shape only. Each tensor has its own stream, keyed by (seed, name); on another
    kind of device, where they are drawn much faster, the numbers are others. Raises `UsageError` for a seed
    outside [0, 2^32): times a million it has to stay below torch's limit.
    """

    scheme: Scheme | None = None

    def __init__(
        self,
        config: ModelConfig,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device = _CPU,
    ) -> None:
        if not 0 <= seed < 1 << 32:
            raise UsageError(f"seed must lie in [0, 2^32), not {seed}")
        self._shapes = expected_shapes(config)
        self._seed, self._dtype, self._device = seed, dtype, device

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype

    def tensor(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(".bias"):
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(
            self._seed * 1_000_003 + zlib.crc32(name.encode())
        )
        empty = torch.empty(shape, dtype=self._dtype, device=self._device)
        return empty.normal_(0.0, 0.02, generator=generator)

    def pieces(self, name: str) -> Iterator[Tensor]:
        yield self.tensor(name)


def element_bytes(matrix: Matrix) -> float:
    """Bytes of one weight, its part of a scale included."""
    return matrix.format.weight_bytes if isinstance(matrix, Quantized) else matrix.dtype.itemsize


def memory_bytes(config: ModelConfig, dtype: torch.dtype, scheme: Scheme | None) -> int:
    """What the matrices will take, padding included."""

    def size(matrix: Projection) -> int:
        rows, columns = matrix.shape
        if scheme is None:
            return rows * columns * dtype.itemsize
        (panels, words, lanes), (_, groups, _) = matrix.format(scheme).shapes(rows, columns)
        return panels * lanes * (words * 4 + groups * 2)

    return sum(size(matrix) for matrix in tensors.matrices(config))


def load_weights(
    checkpoint: Checkpoint,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    scheme: Scheme | None = None,
    on_progress: OnProgress = ignore,
) -> ModelWeights:
    """The weights of every stage on `device`, vectors and unpacked matrices in `dtype`.

    `scheme`: pack the matrices so, from the numbers as the checkpoint has them; those of a checkpoint that
    is packed already are used in place. `on_progress` hears of every layer. Raises `TokenjouleError` where
    norms, biases, scales, or weights to be packed are not finite.
    """

    def vector(*names: str) -> Tensor:
        parts = [checkpoint.tensor(name).to(device=device, dtype=dtype) for name in names]
        for name, part in zip(names, parts, strict=True):
            if not part.isfinite().all():
                raise TokenjouleError(f"{name} has numbers that are not finite")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def matrix(projection: Projection) -> Matrix:
        if checkpoint.scheme is not None:
            return _stored(checkpoint, projection, projection.format(checkpoint.scheme), device)
        if scheme is not None:
            return pack(checkpoint, projection, projection.format(scheme), device)
        return _plain(checkpoint, projection, dtype, device)

    def layer(index: int) -> LayerWeights:
        projections = tensors.layer_matrices(config, index)
        fields: dict[str, Matrix] = {name: matrix(part) for name, part in projections.items()}
        for name, projection in projections.items():
            if projection.biased:
                fields[f"{name}_bias"] = vector(*bias_names(checkpoint, projection))
        for name, (norm, _) in tensors.layer_norms(config, index).items():
            fields[name] = vector(norm)
        on_progress(LoadStep(work, index + 1, config.n_layers))
        return LayerWeights(**fields)  # type: ignore[arg-type]

    work = Work.WEIGHTS if scheme is None or checkpoint.scheme is not None else Work.PACKING
    # First, while there is room for what they are made of: they are the largest.
    embedding = matrix(tensors.embedding(config))
    head = embedding if config.tied_head else matrix(tensors.head(config))
    return ModelWeights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(config.n_layers)),
        head=HeadWeights(vector(tensors.head_norm(config)[0]), head),
    )


def bias_names(checkpoint: Checkpoint, projection: Projection) -> list[str]:
    """The tensors that make a projection's bias."""
    if checkpoint.scheme is not None:
        return [f"{projection.name}.bias"]
    return [f"{name}.bias" for name, _ in projection.parts]


def pack(checkpoint: Checkpoint, projection: Projection, format: Format, device: torch.device) -> Quantized:
    """A matrix packed piece by piece. Raises `TokenjouleError` for weights that are not finite."""
    words_shape, scales_shape = format.shapes(*projection.shape)
    words = torch.empty(words_shape, dtype=torch.int32, device=device)
    scales = torch.empty(scales_shape, dtype=torch.bfloat16, device=device)
    panel = 0
    for piece in _panels(checkpoint, projection):
        try:
            some = quantize(piece.to(device), format)
        except ValueError as error:
            raise TokenjouleError(f"{projection.name}: {error}") from error
        words[panel : panel + len(some.words)] = some.words
        scales[panel : panel + len(some.words)] = some.scales
        panel += len(some.words)
    give_back()
    return Quantized(words, scales, projection.shape, format)


def _panels(checkpoint: Checkpoint, projection: Projection) -> Iterator[Tensor]:
    """The rows of all parts, one below the other, in whole panels but for the last piece."""
    over: Tensor | None = None  # rows of the panel in which one part ends and the next begins
    for name, _ in projection.parts:
        for piece in checkpoint.pieces(f"{name}.weight"):
            joined = piece if over is None else torch.cat((over, piece))
            whole = len(joined) // PANEL * PANEL
            over = joined[whole:].clone() if whole < len(joined) else None
            if whole:
                yield joined[:whole]
    if over is not None:
        yield over


def _stored(
    checkpoint: Checkpoint, projection: Projection, format: Format, device: torch.device
) -> Quantized:
    words = checkpoint.tensor(f"{projection.name}.words").to(device)
    scales = checkpoint.tensor(f"{projection.name}.scales").to(device)
    if not scales.isfinite().all():
        raise TokenjouleError(f"{projection.name} has scales that are not finite")
    return Quantized(words, scales, projection.shape, format)


def _plain(
    checkpoint: Checkpoint, projection: Projection, dtype: torch.dtype, device: torch.device
) -> Tensor:
    names = [f"{name}.weight" for name, _ in projection.parts]
    if len(names) == 1 and checkpoint.dtype(names[0]) is dtype and device.type == "cpu":
        return checkpoint.tensor(names[0])
    matrix = torch.empty(projection.shape, dtype=dtype, device=device)
    row = 0
    for name in names:
        for piece in checkpoint.pieces(name):
            matrix[row : row + len(piece)].copy_(piece)
            row += len(piece)
    return matrix
