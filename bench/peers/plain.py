"""Our weights as the plain tensors that peers take."""

from torch import Tensor

from engine.errors import TokenjouleError
from kernels.quantize import Matrix


def plain(matrix: Matrix) -> Tensor:
    """The matrix itself. Raises `TokenjouleError` where it is packed: peers have formats of their own."""
    if not isinstance(matrix, Tensor):
        raise TokenjouleError("peers take weights that are not packed")
    return matrix
