"""O: what attention found joins the residual stream. One launch."""

from torch import Tensor

from kernels.gpu.stream import Stream, add
from kernels.gpu.tiles import Tile
from kernels.gpu.weights import GpuLayer


def attention_output(
    attended: Tensor, layer: GpuLayer, stream: Stream, *, tile: Tile | None = None, dependent: bool
) -> None:
    """x += W_o·attended + b_o, and what the norm before the mlp needs.

    attended (B, H, D) bf16 or fp32, contiguous. Mutates `stream`.
    """
    weights = layer.library.weights
    vectors = attended.view(len(attended), -1)
    add(vectors, layer.output, weights.output_bias, stream, weights.mlp_norm, tile=tile, dependent=dependent)
