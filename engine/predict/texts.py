"""Questions of equal texts are one question: learnt from, calibrated on or tested together, never apart."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int_]


def numbered(texts: Sequence[Hashable] | NDArray) -> Rows:
    """(N,): the number of each one's text, from 0 in order of coming."""
    number = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    return np.array([number[text] for text in texts], dtype=np.int_)


def firsts(texts: Sequence[Hashable] | NDArray) -> Rows:
    """The row of each text where it comes first."""
    return np.unique(numbered(texts), return_index=True)[1]


def shuffled(texts: Sequence[Hashable] | NDArray, seed: int | tuple[int, ...]) -> tuple[Rows, int]:
    """((N,): the place of each one's text in a random order, how many texts there are)."""
    numbers = numbered(texts)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    return np.argsort(np.random.default_rng(seed).permutation(count))[numbers], count
