"""Least squares on a handful of cells: polynomials, amortisation, Wilkins' form, one shape for all models.

All fits weigh relative errors alike: a request of 128 tokens costs a hundred times one of one token, and its
scatter grows with it. Every interval is Student's t of the residuals about the curve, so that what the curve
misses counts as noise. Pure arithmetic; knows neither records nor models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.distributions import f_tail, t_quantile

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Fit:
    """y ≈ Σ coefficient · column. `halves`: half-widths of the 95 % intervals; None without spare points.

    `error`: root mean square of the relative residuals. `n`: points.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    halves: tuple[float, ...] | None
    error: float
    n: int

    def __getitem__(self, name: str) -> float:
        return self.coefficients[self.names.index(name)]

    def interval(self, name: str) -> tuple[float, float] | None:
        if self.halves is None:
            return None
        half = self.halves[self.names.index(name)]
        return self[name] - half, self[name] + half


def least_squares(columns: Mapping[str, Array], y: Sequence[float]) -> Fit:
    """Relative least squares; all y positive.

    Raises `ValueError`, one line for the user, for too few points or columns that cannot be told apart.
    """
    target = np.asarray(y, dtype=float)
    names = tuple(columns)
    if (target <= 0).any():
        raise ValueError("an energy of zero or less has no relative error")
    if len(target) < len(names):
        raise ValueError(f"{len(target)} points do not determine {len(names)} coefficients")
    design = np.stack([np.asarray(columns[name], dtype=float) for name in names], axis=1) / target[:, None]
    scale = np.abs(design).max(axis=0)
    if (scale == 0).any() or np.linalg.matrix_rank(design / scale, tol=1e-8) < len(names):
        raise ValueError(f"not identifiable: the points do not tell {', '.join(names)} apart")
    design = design / scale
    found, *_ = np.linalg.lstsq(design, np.ones(len(target)), rcond=None)
    left = design @ found - 1
    freedom = len(target) - len(names)
    halves = None
    if freedom > 0:
        variance = float(left @ left) / freedom * np.linalg.inv(design.T @ design).diagonal()
        halves = tuple(float(h) for h in t_quantile(0.95, freedom) * np.sqrt(variance) / scale)
    error = float(np.sqrt(np.mean(left**2)))
    return Fit(names, tuple(float(c) for c in found / scale), halves, error, len(target))


def polynomial(x: Sequence[float], y: Sequence[float], degree: int) -> Fit:
    """Columns `1`, `x`, `x²`, as far as `degree` says. Raises as `least_squares`."""
    at = np.asarray(x, dtype=float)
    return least_squares({name: at**power for power, name in enumerate(("1", "x", "x²")[: degree + 1])}, y)


def amortised(prompt: float, new: Sequence[float], y: Sequence[float]) -> Fit:
    """J/token of E = a + b·m over n + m tokens: y = (a + b·m) / (n + m). It bends although E does not."""
    m = np.asarray(new, dtype=float)
    return least_squares({"a": 1 / (prompt + m), "b": m / (prompt + m)}, y)


def wilkins(prompt: Sequence[float], new: Sequence[float], y: Sequence[float]) -> Fit:
    """E = α0·n + α1·m + α2·n·m of n prompt and m new tokens (Wilkins et al., arXiv 2407.04014).

    Raises `ValueError` where the points do not tell the three apart, as with a single n.
    """
    n, m = np.asarray(prompt, dtype=float), np.asarray(new, dtype=float)
    if len(set(n.tolist())) < 2 or len(set(m.tolist())) < 2:
        raise ValueError("not identifiable: two prompt lengths and two numbers of new tokens are needed")
    return least_squares({"α0": n, "α1": m, "α2": n * m}, y)


@dataclass(frozen=True, slots=True)
class CommonShape:
    """Whether curves differ by a factor alone. `amplitudes`: each curve's factor, the first's being 1.

    `f`, `above`, `below`, `p`: the test of the interaction against the scatter of repeats; None without
    repeats. `largest`: how far, relatively, the furthest point lies from the common shape.
    """

    amplitudes: tuple[float, ...]
    largest: float
    f: float | None
    above: int
    below: int
    p: float | None


def common_shape(samples: Sequence[Sequence[Sequence[float]]]) -> CommonShape:
    """E_i(m) = A_i · f(m) for every curve i? Of samples[curve][point][repeat], all positive.

    In logarithms that is a sum without interaction, whatever f may be: two-way analysis of variance, the
    number of repeats may differ. Raises `ValueError` for fewer than two curves or points, or unequal points.
    """
    curves, points = len(samples), len(samples[0]) if samples else 0
    if curves < 2 or points < 2 or any(len(curve) != points for curve in samples):
        raise ValueError("two curves or more over the same two points or more are needed")
    rows: list[Array] = []
    logs: list[float] = []
    within = 0.0
    for i, curve in enumerate(samples):
        for j, repeats in enumerate(curve):
            at = np.zeros(curves + points - 1)
            at[i] = 1.0
            if j:
                at[curves + j - 1] = 1.0
            cell = np.log(np.asarray(repeats, dtype=float))
            within += float(((cell - cell.mean()) ** 2).sum())
            rows += [at] * len(cell)
            logs += cell.tolist()
    design, target = np.array(rows), np.array(logs)
    found, *_ = np.linalg.lstsq(design, target, rcond=None)
    additive = float(((design @ found - target) ** 2).sum())
    means = np.array([[np.log(repeats).mean() for repeats in curve] for curve in samples])
    predicted = found[:curves, None] + np.concatenate([[0.0], found[curves:]])[None, :]
    largest = float(np.abs(np.expm1(means - predicted)).max())
    above, below = (curves - 1) * (points - 1), len(target) - curves * points
    f = p = None
    if below > 0 and within > 0:
        f = max(additive - within, 0.0) / above / (within / below)
        p = f_tail(f, above, below)
    amplitudes = tuple(float(a) for a in np.exp(found[:curves] - found[0]))
    return CommonShape(amplitudes, largest, f, above, below, p)
