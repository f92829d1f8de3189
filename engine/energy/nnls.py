"""Least squares without negative weights: the active set of Lawson and Hanson (1974, chapter 23)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TOLERANCE = 1e-10  # of a gradient, where columns and values have length 1
_ROUNDS = 30  # for each column; the method ends after about one


def nnls(design: Array, values: Array) -> Array:
    """argmin |design · w - values|² over w ≥ 0; design (n, k), values (n,) -> (k,).

    Columns are scaled to length 1 first. Raises `ValueError` where it does not end, which no finite design
    should do.
    """
    lengths = np.linalg.norm(design, axis=0)
    lengths[lengths == 0] = 1.0
    scale = float(np.linalg.norm(values)) or 1.0
    weights = _unscaled(design / lengths, values / scale)
    return weights * scale / lengths


def _unscaled(design: Array, values: Array) -> Array:
    columns = design.shape[1]
    weights, used = np.zeros(columns), np.zeros(columns, dtype=bool)
    for _ in range(_ROUNDS * columns):
        gradient = design.T @ (values - design @ weights)
        waiting = ~used & (gradient > _TOLERANCE)
        if not waiting.any():
            return weights
        entering = int(np.argmax(np.where(waiting, gradient, -np.inf)))
        used[entering] = True
        while True:
            solved = np.zeros(columns)
            solved[used] = np.linalg.lstsq(design[:, used], values, rcond=None)[0]
            leaving = used & (solved <= 0)
            if not leaving.any():
                break
            # As far towards the solution as no weight turns negative; what reaches 0 leaves.
            share = float(np.min(weights[leaving] / (weights[leaving] - solved[leaving])))
            weights += share * (solved - weights)
            used &= weights > _TOLERANCE
            weights[~used] = 0.0
            if not used.any():
                break
        weights = np.where(used, solved, 0.0)
    raise ValueError("non-negative least squares did not end")
