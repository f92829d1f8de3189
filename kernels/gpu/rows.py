"""The batch of one decode step, in device memory: what a captured step reads anew at every replay."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """B rows with one new token each. All tensors are contiguous and may change between steps, in place.

    `positions` (B,) int32: where the new token stands, which is how many tokens the row holds before it;
    negative for a row that rests: nothing of it is written, and what it yields is not defined.
    `pages` (B, P) int32: the row's pages of the pool in order, valid up to the one of its position.
    `cos`, `sin` (positions, D/2) fp32: the rotary angles of every position, attention factor included.
    `page_size`: slots of a page, a power of two.
    `prefix` (1,) int32: how many first positions all rows that do not rest hold in the same pages, to be read
    once for all; None where each row reads its own.
    """

    positions: Tensor
    pages: Tensor
    cos: Tensor
    sin: Tensor
    page_size: int
    prefix: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)
