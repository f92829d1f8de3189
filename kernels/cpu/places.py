"""Where the new tokens of a batch stand and where the cache lies, as the compiled stages take them."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels.api import LayerCache, Layout
from kernels.cpu.attention import SPLIT
from kernels.cpu.gemv import matrix, stored


@dataclass(frozen=True, slots=True)
class Places:
    """A `Layout` as arrays. `first_page` (N,): where in `pages` the token's row begins."""

    layout: Layout
    positions: np.ndarray
    slots: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    pages: np.ndarray
    first_page: np.ndarray

    @classmethod
    def of(cls, layout: Layout) -> "Places":
        counts = [row.stop - row.start for row in layout.rows]
        starts = np.cumsum([0, *(len(row.pages) for row in layout.rows[:-1])])
        return cls(
            layout,
            positions=layout.positions.numpy(),
            slots=layout.slots.numpy(),
            cos=layout.cos.contiguous().numpy(),
            sin=layout.sin.contiguous().numpy(),
            pages=np.concatenate([row.pages.numpy() for row in layout.rows]),
            first_page=np.repeat(starts, counts),
        )

    def in_splits(self, windows: np.ndarray) -> int:
        """The most splits that attention has in any layer; `windows` (layers,), 0 for none."""
        last = self.positions // SPLIT
        return max(
            int((last - (np.maximum(0, self.positions + 1 - window) // SPLIT if window else 0) + 1).sum())
            for window in set(windows.tolist())
        )


@dataclass(frozen=True, slots=True)
class Pools:
    """Where the keys and values of some layers begin: (layers, 2) int64. It does not keep them alive."""

    caches: tuple[weakref.ReferenceType[LayerCache], ...]
    addresses: np.ndarray

    @classmethod
    def of(cls, caches: Sequence[LayerCache]) -> "Pools":
        table = [[cache.keys.data_ptr(), cache.values.data_ptr()] for cache in caches]
        return cls(tuple(map(weakref.ref, caches)), np.array(table, np.int64))

    def is_of(self, caches: Sequence[LayerCache]) -> bool:
        """Whether it was made of these very caches."""
        return len(caches) == len(self.caches) and all(
            cache is held() for cache, held in zip(caches, self.caches, strict=True)
        )


def pool(cache: LayerCache) -> tuple[np.ndarray, ...]:
    """keys, values (L, K, D); key_rows, value_rows as in `attention`."""
    keys, values = cache.keys, cache.values
    return stored(keys), stored(values), matrix(keys.flatten(0, 1)), matrix(values.flatten(0, 1))
