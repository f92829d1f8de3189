"""Generalised least squares with non-negative coefficients, and the noise that its weights need.

The covariance of the ticks' joules is a sum of known shapes with unknown variances: the times that readings
tell of scatter (neighbouring ticks err against each other), each tick has noise of its own, absolute and as a
fraction of its power, a whole request drifts; rounding to the counter's step is known. The variances follow
from the residuals by iterated MINQUE, whose fixed point is restricted maximum likelihood (C. R. Rao 1971;
Harville 1977), kept non-negative. Knows matrices; steps and sensors are `power_design`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine.energy.covariance_shapes import Band, Outer, Shape
from engine.energy.power_design import Design, quantisation
from engine.energy.power_model import Noise
from engine.energy.power_trace import Array

_SEGMENT = 128  # ticks whose covariance is kept whole; beyond that, two neighbours in a thousand are let go
_ROUNDS = 25
_LEANING_ROUNDS = 5  # of a request whose noise leans on what is known
_SHRINK = 10.0  # a variance falls by no more than this from one round to the next
_NOTHING = 1e-4  # of the residual's variance: a part below that may still be falling
_SETTLED = 0.01  # change of the variances, relative, at which the iteration ends
_FLOOR = 1e-5  # of a tick's mean energy: no model of power is better than that


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What is known of the coefficients, in information form, and of the noise from `ticks` earlier ticks."""

    theta: Array  # (p,)
    precision: Array  # (p, p)
    noise: Noise
    ticks: int


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """`theta` (p,), `covariance` (p, p) of it, and for each request its whitened rows.

    `whitened[i]`: (n, p) design and `left[i]` (n,) residual of one request, in units of the noise; `roots[i]`
    the triangular factors that make them so, by ticks. The column after the p-th, where there is one, is the
    sensor's lag.
    """

    theta: Array
    covariance: Array
    noise: Noise
    scale: float
    whitened: list[Array]
    left: list[Array]
    roots: list[list[tuple[slice, Array]]]
    condition: float
    moves: Array  # (v, p, p): how the covariance moves with each of the noise's variances
    variance_precision: Array  # (v, v): how well the ticks, the prior's included, tell those variances

    def freedom(self, direction: Array) -> float:
        """Degrees of freedom behind the variance of `direction` · theta (Satterthwaite 1946)."""
        variance = float(direction @ self.covariance @ direction)
        slopes = np.einsum("p,vpq,q->v", direction, self.moves, direction)
        size = np.sqrt(np.maximum(np.diag(self.variance_precision), 0.0))
        size[size == 0] = np.inf
        scaled = self.variance_precision / np.outer(size, size) + 1e-6 * np.eye(len(size))
        spread = float((slopes / size) @ np.linalg.solve(scaled, slopes / size))
        return 2 * variance**2 / spread if spread > 0 else math.inf

    def whiten(self, request: int, column: Array) -> Array:
        """A column (n,) over a request's ticks in units of the noise; the rest is left out."""
        return np.concatenate([_solved(root, column[rows]) for rows, root in self.roots[request]])


@dataclass(slots=True, eq=False)
class _Segment:
    request: int
    design: Design
    rows: slice
    rounding: Band

    @property
    def energy_j(self) -> Array:
        return self.design.energy_j[self.rows]

    @property
    def seconds(self) -> Array:
        return self.design.seconds[self.rows]

    def shapes(self, theta: Array, *, drift: bool) -> list[Shape]:
        """Covariance for unit variance of jitter, white, ratio and (in a pool) drift."""
        expected_j = self.seconds @ theta
        shapes: list[Shape] = [
            self.design.jitter(theta, self.rows),
            Band.diagonal(self.design.ticks.lengths_s[self.rows] ** 2),
            Band.diagonal(expected_j**2),
        ]
        return [*shapes, Outer(expected_j)] if drift else shapes


def estimate(
    designs: Sequence[Design],
    firsts: Sequence[int],
    *,
    resolution_j: float,
    lag_sd_s: float,
    prior: Prior | None,
    with_drift: bool,
) -> Estimate:
    """Coefficients and noise of all requests together. `firsts[i]`: the first tick of request i that counts.

    Raises `numpy.linalg.LinAlgError` where the coefficients cannot be told apart at all.
    """
    segments = [
        _Segment(request, design, slice(low, high), quantisation(high - low, resolution_j))
        for request, (design, first) in enumerate(zip(designs, firsts, strict=True))
        for low, high in _cut(first, len(design.energy_j))
    ]
    count = designs[0].seconds.shape[1]
    ticks = sum(len(s.energy_j) for s in segments)
    power_w = np.concatenate([s.energy_j / s.design.ticks.lengths_s[s.rows] for s in segments])
    floor = (_FLOOR * float(power_w.mean())) ** 2
    theta = prior.theta if prior is not None else _plain(segments, count)
    variances = _start(segments, theta, prior, with_drift, floor)
    largest = _start(segments, theta, None, with_drift, floor)
    for _ in range(_ROUNDS if prior is None else _LEANING_ROUNDS):
        step = _Step(segments, theta, variances, lag_sd_s, prior)
        theta = step.theta
        # From weights of 0 for a part that is there, the next estimate overshoots and never settles.
        found = np.maximum(step.variances(floor), variances / _SHRINK)
        before, variances = variances, _mixed(found, prior, ticks)
        moved = np.abs(variances - before) - _SETTLED * np.maximum(variances, before)
        if (moved <= _NOTHING * largest).all():
            break
    step = _Step(segments, theta, variances, lag_sd_s, prior)
    step.variances(floor)
    noise = Noise(*np.sqrt(variances))
    whitened: list[list[Array]] = [[] for _ in designs]
    left: list[list[Array]] = [[] for _ in designs]
    roots: list[list[tuple[slice, Array]]] = [[] for _ in designs]
    for segment, root, wide in zip(segments, step.roots, step.wides, strict=True):
        whitened[segment.request].append(_solved(root, wide))
        left[segment.request].append(_solved(root, segment.energy_j - wide @ step.solution))
        roots[segment.request].append((segment.rows, root))
    free = max(ticks - count if prior is None else ticks, 1)
    square = sum(float(part @ part) for parts in left for part in parts)
    return Estimate(
        step.theta,
        step.covariance[:count, :count],
        noise,
        float(np.sqrt(square / free)),
        [np.concatenate(parts) for parts in whitened],
        [np.concatenate(parts) for parts in left],
        roots,
        step.condition,
        step.moves[:, :count, :count],
        step.expected / 2 * (1 if prior is None else 1 + prior.ticks / ticks),
    )


class _Step:
    """One round at given variances: the coefficients, and what the next variances follow from."""

    def __init__(
        self,
        segments: Sequence[_Segment],
        theta: Array,
        variances: Array,
        lag_sd_s: float,
        prior: Prior | None,
    ) -> None:
        self.segments, self.variances_now = segments, variances
        count, drift = len(theta), len(variances) == 4
        width = count + (lag_sd_s > 0)
        normal, right = np.zeros((width, width)), np.zeros(width)
        self.wides: list[Array] = []
        self.roots: list[Array] = []
        self.inverses: list[Array] = []
        self.shapes: list[list[Shape]] = []
        for segment in segments:
            shapes = segment.shapes(theta, drift=drift)
            covariance = segment.rounding.dense()
            for variance, shape in zip(variances.tolist(), shapes, strict=True):
                shape.add_to(covariance, variance)
            inverse = np.linalg.inv(covariance).astype(np.float64)
            root = np.linalg.cholesky(covariance).astype(np.float64)
            wide = segment.seconds
            if lag_sd_s > 0:
                lag = segment.design.lag_slope(theta, segment.rows)
                wide = np.column_stack([wide, lag])
            normal += wide.T @ inverse @ wide
            right += wide.T @ inverse @ segment.energy_j
            self.wides.append(wide)
            self.roots.append(root)
            self.inverses.append(inverse)
            self.shapes.append(shapes)
        if prior is not None:
            normal[:count, :count] += prior.precision
            right[:count] += prior.precision @ prior.theta
        if lag_sd_s > 0:
            normal[count, count] += lag_sd_s**-2
        size = np.sqrt(np.diag(normal))
        if not (size > 0).all():
            raise np.linalg.LinAlgError("a column is zero")
        scaled = normal / np.outer(size, size)
        self.condition = float(np.linalg.cond(scaled))
        self.covariance = np.linalg.inv(scaled) / np.outer(size, size)
        solution = nonnegative(scaled, right / size, count) / size
        self.theta = solution[:count]
        self.solution = solution

    def variances(self, floor: float) -> Array:
        """The variances that the residuals' squares lead one to expect."""
        kinds, width = len(self.variances_now), len(self.solution)
        found = np.zeros(kinds)
        traces = np.zeros((kinds + 1, kinds + 1))  # of P K P K', the rounding's shape last
        crossed = np.zeros((kinds + 1, width, kinds + 1, width))
        single = np.zeros((kinds + 1, width, width))
        for segment, wide, inverse, shapes in zip(
            self.segments, self.wides, self.inverses, self.shapes, strict=True
        ):
            pull = inverse @ (segment.energy_j - wide @ self.solution)
            all_shapes = [*shapes, segment.rounding]
            found += [pull @ shape.times(pull) for shape in shapes]
            products = np.stack([shape.times(inverse) for shape in all_shapes])  # (kinds + 1, n, n) K V⁻¹
            turned = products.transpose(0, 2, 1).reshape(kinds + 1, -1)
            traces += products.reshape(kinds + 1, -1) @ turned.T
            weighted = inverse @ wide
            carried = np.stack(
                [shape.times(weighted) for shape in all_shapes], axis=1
            )  # (n, kinds + 1, width)
            single += np.tensordot(carried, weighted, (0, 0))
            flat = carried.reshape(len(wide), -1)
            crossed += (flat.T @ inverse @ flat).reshape(crossed.shape)
        # What the coefficients take out: tr(P K P K') has -2 tr(C X'..X) + tr(C S C S') besides.
        taken = self.covariance @ single
        traces += np.einsum("ipq,jqp->ij", taken, taken) - 2 * np.einsum(
            "pq,iqjp->ij", self.covariance, crossed
        )
        expected, known = traces[:kinds, :kinds], traces[:kinds, kinds]
        size = np.sqrt(np.maximum(np.diag(expected), 0.0))  # a part that no tick tells rounds to below 0
        size[size == 0] = 1.0
        answer = nonnegative(
            expected / np.outer(size, size) + 1e-9 * np.eye(kinds), (found - known) / size, kinds
        )
        variances = answer / size
        self.expected = expected
        self.moves = taken[:kinds] @ self.covariance
        variances[1] = max(variances[1], floor)
        return variances


def nonnegative(normal: Array, right: Array, count: int) -> Array:
    """x that minimises x'·normal·x / 2 - right'·x with the first `count` of x not negative.

    For normal equations that are all there is; from a design, `nnls` loses only half as many digits.
    """
    width = len(right)
    free = np.ones(width, dtype=bool)
    for _ in range(4 * width):
        x = np.zeros(width)
        x[free] = np.linalg.solve(normal[np.ix_(free, free)], right[free])
        below = np.where(x[:count] < 0, x[:count], 0.0)
        if below.min(initial=0.0) < 0:
            free[int(np.argmin(below))] = False
            continue
        slope = np.where(free, 0.0, right - normal @ x)
        if slope.max() <= 1e-12 * max(np.abs(right).max(), 1e-300):
            return x
        free[int(np.argmax(slope))] = True
    return np.maximum(x, np.where(np.arange(width) < count, 0.0, -np.inf))


def _solved(root: Array, columns: Array) -> Array:
    return np.linalg.solve(root, columns).astype(np.float64)


def _cut(first: int, stop: int) -> list[tuple[int, int]]:
    pieces = max(-(-(stop - first) // _SEGMENT), 1)
    edges = [first + (stop - first) * i // pieces for i in range(pieces + 1)]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def _plain(segments: Sequence[_Segment], count: int) -> Array:
    """Least squares with equal weights, to begin with."""
    normal = sum(s.seconds.T @ s.seconds for s in segments)
    right = sum(s.seconds.T @ s.energy_j for s in segments)
    size = np.sqrt(np.diag(normal))
    if not (size > 0).all():
        raise np.linalg.LinAlgError("a column is zero")
    return nonnegative(normal / np.outer(size, size) + 1e-12 * np.eye(count), right / size, count) / size


def _start(
    segments: Sequence[_Segment], theta: Array, prior: Prior | None, with_drift: bool, floor: float
) -> Array:
    if prior is not None:
        noise = prior.noise
        variances = np.array([noise.jitter_s, noise.white_w, noise.ratio]) ** 2
        variances[1] = max(variances[1], floor)
        return np.append(variances, noise.drift**2) if with_drift else variances
    left_w = np.concatenate(
        [(s.energy_j - s.seconds @ theta) / s.design.ticks.lengths_s[s.rows] for s in segments]
    )
    square = max(float(left_w @ left_w), floor * len(left_w))
    traces = np.zeros(3 + with_drift)
    for segment in segments:
        lengths_s = segment.design.ticks.lengths_s[segment.rows]
        for index, shape in enumerate(segment.shapes(theta, drift=with_drift)):
            traces[index] += float((shape.variances / lengths_s**2).sum())
    return square / len(traces) / np.where(traces > 0, traces, np.inf)


def _mixed(variances: Array, prior: Prior | None, ticks: int) -> Array:
    """Variances of few ticks lean on those of the prior's many, weighted by their numbers."""
    if prior is None:
        return variances
    noise = prior.noise
    earlier = np.array([noise.jitter_s, noise.white_w, noise.ratio, noise.drift][: len(variances)]) ** 2
    share = prior.ticks / (prior.ticks + ticks)
    return share * earlier + (1 - share) * variances
