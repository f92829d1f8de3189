"""Fits a `PowerModel` to pooled requests, widens its covariance where the data ask for it, or refuses.

The covariance is that of generalised least squares. A bootstrap over requests (Bayesian: exponential weights,
so that no replicate lacks a kind of step) stands beside it and takes its place where it is wider by more
than chance: then requests differ by more than their ticks scatter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from engine.energy.meter import Sensor
from engine.energy.power_design import Design
from engine.energy.power_doubts import doubts
from engine.energy.power_estimate import Estimate, Prior, estimate
from engine.energy.power_features import Features
from engine.energy.power_model import IDLE, Noise, NotIdentifiable, PowerModel, Run
from engine.energy.power_trace import Array

DRIFT = 0.01  # between requests, where too few are pooled to tell it
_DRIFT_RUNS = 6  # requests that tell it
_LEAN_TICKS = 200  # earlier ticks beyond this number do not hold the noise of a new request any tighter
_SPARE_TICKS = 2  # more than there are coefficients
_CONDITION = 1e10  # of the scaled normal equations
_UNTOLD = 0.5  # relative deviation of a kind's power above which it counts as not told
_REPLICATES = 400
_GROUPS = 8  # requests that a bootstrap needs


def fit_power(
    runs: Sequence[Run],
    sensor: Sensor,
    *,
    provenance: Mapping[str, str] | None = None,
) -> PowerModel:
    """The powers that the readings of all `runs` agree on best, with their covariance.

    `provenance` goes into the model as it is. Raises `NotIdentifiable` for a design that cannot tell the
    powers apart, `ValueError` for readings that fall, steps that overlap, or no steps at all.
    """
    marks = [mark for run in runs for mark in run.marks]
    if not marks:
        raise ValueError("there is no step to fit a power to")
    features = Features.of(marks)
    designs = [Design.of(run, features, sensor) for run in runs]
    found = fitted(runs, designs, features, sensor, None)
    covariance, wider = _bootstrapped(found)
    noise = found.noise
    drift = noise.drift if len(runs) >= _DRIFT_RUNS else DRIFT
    return PowerModel(
        features=features.names,
        theta=tuple(float(value) for value in found.theta),
        covariance=tuple(tuple(float(value) for value in row) for row in covariance),
        seen=features.seen,
        noise=Noise(float(noise.jitter_s), float(noise.white_w), float(noise.ratio), float(drift)),
        residual_scale=found.scale,
        ticks=sum(len(part) for part in found.left),
        runs=len(runs),
        doubts=(*doubts(runs, designs, found, features, sensor), *wider),
        provenance=dict(provenance or {}),
    )


def fitted(
    runs: Sequence[Run],
    designs: Sequence[Design],
    features: Features,
    sensor: Sensor,
    power: PowerModel | None,
) -> Estimate:
    """The estimate behind `fit_power`; with `power`, that of new requests beside what is known from before.

    `power` is widened by its own drift; the runs must not be among those it was fitted to. Raises as
    `fit_power` does.
    """
    if sensor.lag_s is None or sensor.window_s is None:
        raise NotIdentifiable("the sensor's lag and window are not known")
    firsts = [0 if run.first_is_change else 1 for run in runs]
    ticks = sum(len(design.energy_j) - first for design, first in zip(designs, firsts, strict=True))
    count = len(features.names)
    prior = None if power is None else _prior(power, features)
    if prior is None and ticks < count + _SPARE_TICKS:
        have = "1 tick is" if ticks == 1 else f"{ticks} ticks are"
        raise NotIdentifiable(f"{have} too few to tell {count} powers from each other")
    if ticks < 1:
        raise NotIdentifiable("no whole tick of the sensor lies in the request")
    seconds = np.concatenate([d.seconds[first:] for d, first in zip(designs, firsts, strict=True)])
    if prior is None:
        _require_seen(seconds, features)
    try:
        found = estimate(
            designs,
            firsts,
            resolution_j=sensor.resolution_uj * 1e-6,
            lag_sd_s=sensor.lag_sd_s,
            prior=prior,
            with_drift=prior is None and len(runs) >= _DRIFT_RUNS,
        )
    except np.linalg.LinAlgError:
        raise NotIdentifiable(_untold(seconds, features)) from None
    if not found.condition < _CONDITION:
        raise NotIdentifiable(_untold(seconds, features))
    wider = _student(found, designs, features) * _misfit(found, ticks)
    found = replace(found, covariance=found.covariance * np.outer(wider, wider))
    _require_told(found, designs, features, seconds)
    return found


def _prior(power: PowerModel, features: Features) -> Prior:
    """The model's own coefficients with its drift in their covariance; nothing is known of new kinds."""
    known = len(power.features)
    theta = np.zeros(len(features.names))
    theta[:known] = power.theta
    covariance = np.array(power.covariance) + power.noise.drift**2 * np.outer(power.theta, power.theta)
    size = np.sqrt(np.diag(covariance))
    size[size == 0] = 1e-12
    precision = np.zeros((len(theta), len(theta)))
    precision[:known, :known] = np.linalg.pinv(covariance / np.outer(size, size)) / np.outer(size, size)
    return Prior(theta, precision, power.noise, min(power.ticks, _LEAN_TICKS))


def _student(found: Estimate, designs: Sequence[Design], features: Features) -> Array:
    """(p,) Student's 97.5 % quantile over the normal's: a deviation is itself known from so many ticks only.

    One figure for all coefficients of a kind, from its mean power.
    """
    rows = np.concatenate([design.features for design in designs])
    factors = np.ones(len(features.names))
    for column, name in enumerate(features.names):
        kind = name.partition(".")[0]
        of_kind = rows[rows[:, features.names.index(name if kind == IDLE else f"{kind}.const")] > 0]
        level = of_kind.mean(axis=0) if len(of_kind) else np.eye(len(factors))[column]
        free = max(found.freedom(level), 3.0)
        factors[column] = (1.96 + 2.4 / free + 3.2 / free**2) / 1.96
    return factors


def _misfit(found: Estimate, ticks: int) -> float:
    """The residual's scale where it is larger than one in a hundred well-specified fits would show."""
    bound = np.sqrt(1 + 2.33 * np.sqrt(2 / ticks))
    return found.scale if found.scale > bound else 1.0


def _require_seen(seconds: Array, features: Features) -> None:
    for column, name in enumerate(features.names):
        if name != IDLE and np.abs(seconds[:, column]).max() <= 1e-9:
            kind = name.partition(".")[0]
            raise NotIdentifiable(f"no tick saw anything of {kind}: it fell between the sensor's windows")


def _require_told(found: Estimate, designs: Sequence[Design], features: Features, seconds: Array) -> None:
    """Every kind's mean power must be known to better than half of itself."""
    rows = np.concatenate([design.features for design in designs])
    kinds = sorted({name.partition(".")[0] for name in features.names} - {IDLE})
    for kind in kinds:
        column = features.names.index(f"{kind}.const")
        of_kind = rows[rows[:, column] > 0]
        if not len(of_kind):
            continue
        level = of_kind.mean(axis=0)
        power_w, sd_w = float(level @ found.theta), float(np.sqrt(level @ found.covariance @ level))
        if not sd_w <= _UNTOLD * power_w:
            why = _untold(seconds, features)
            raise NotIdentifiable(f"the power of {kind} is {power_w:.3g} W give or take {sd_w:.3g} W: {why}")


def _untold(seconds: Array, features: Features) -> str:
    """Which powers the ticks confuse: the direction that they see least of."""
    size = np.sqrt((seconds**2).sum(axis=0))
    size[size == 0] = 1.0
    _, values, directions = np.linalg.svd(seconds / size, full_matrices=False)
    weakest = np.abs(directions[-1])
    names = [features.names[i] for i in np.argsort(-weakest) if weakest[i] > 0.3 * weakest.max()]
    shares = seconds / seconds.sum(axis=1, keepdims=True).clip(1e-12)
    inside = shares[shares[:, 0] < 0.98]
    idle = inside[:, 0] if len(inside) else np.zeros(1)
    if idle.mean() > 0.02 and idle.std() < 0.02:
        return f"every tick sees the same share of {' and '.join(names)}: steps and ticks are in step"
    return f"the ticks cannot tell {' from '.join(names)} (smallest singular value {values[-1]:.1g})"


def _bootstrapped(found: Estimate) -> tuple[Array, tuple[str, ...]]:
    """The covariance, wider where requests scatter by more than chance, and the remark that says so."""
    groups = [
        (rows.T @ rows, rows.T @ (left + rows[:, : len(found.theta)] @ found.theta))
        for rows, left in zip(found.whitened, found.left, strict=True)
        if len(rows)
    ]
    if len(groups) < _GROUPS:
        return found.covariance, ()
    count = len(found.theta)
    normals = np.stack([normal[:count, :count] for normal, _ in groups])
    rights = np.stack([right[:count] for _, right in groups])
    weights = np.random.default_rng(0).exponential(size=(_REPLICATES, len(groups)))
    size = np.sqrt(np.einsum("gii->i", normals))
    normal = np.einsum("rg,gij->rij", weights, normals / np.outer(size, size))
    right = np.einsum("rg,gi->ri", weights, rights / size)
    replicates = np.linalg.solve(normal + 1e-12 * np.eye(count), right[..., None])[..., 0] / size
    deviations = np.sqrt(np.diag(found.covariance))
    ratio = replicates.std(axis=0) / np.where(deviations > 0, deviations, np.inf)
    chance = 1 + 2.6 / np.sqrt(2 * (len(groups) - 1))
    wider = np.where(ratio > chance, ratio, 1.0)
    if (wider == 1.0).all():
        return found.covariance, ()
    worst = float(wider.max())
    return found.covariance * np.outer(wider, wider), (
        f"requests scatter up to {worst:.1f} times as much as their ticks explain: intervals were widened",
    )
