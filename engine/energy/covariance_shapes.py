"""Covariances whose shape makes them cheap: bands of three diagonals, and what moves all ticks together."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.energy.power_trace import Array


class Shape(Protocol):
    """A symmetric matrix (n, n)."""

    @property
    def variances(self) -> Array:
        """Its diagonal (n,)."""

    def times(self, columns: Array) -> Array:
        """This matrix times (n,) or (n, k)."""

    def add_to(self, matrix: Array, factor: float) -> None:
        """matrix (n, n) += factor times this."""


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """`variances` (n,) on the diagonal, `beside` (n - 1,) on the two next to it."""

    variances: Array
    beside: Array

    @classmethod
    def diagonal(cls, variances: Array) -> "Band":
        return cls(variances, np.zeros(max(len(variances) - 1, 0)))

    def times(self, columns: Array) -> Array:
        across = (slice(None),) + (None,) * (columns.ndim - 1)
        found = self.variances[across] * columns
        if self.beside.any():
            found[1:] += self.beside[across] * columns[:-1]
            found[:-1] += self.beside[across] * columns[1:]
        return np.asarray(found, np.float64)

    def add_to(self, matrix: Array, factor: float) -> None:
        index = np.arange(len(self.variances))
        matrix[index, index] += factor * self.variances
        matrix[index[1:], index[:-1]] += factor * self.beside
        matrix[index[:-1], index[1:]] += factor * self.beside

    def dense(self) -> Array:
        matrix = np.zeros((len(self.variances), len(self.variances)))
        self.add_to(matrix, 1.0)
        return matrix


@dataclass(frozen=True, slots=True, eq=False)
class Outer:
    """v v' of one vector (n,)."""

    vector: Array

    @property
    def variances(self) -> Array:
        return self.vector**2

    def times(self, columns: Array) -> Array:
        return np.asarray(np.multiply.outer(self.vector, self.vector @ columns), np.float64)

    def add_to(self, matrix: Array, factor: float) -> None:
        matrix += factor * np.outer(self.vector, self.vector)
