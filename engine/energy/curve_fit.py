"""From requests that were run to an operating curve: coefficients, bands, and what they are worth.

Requests are dealt in turn, as they came: two to the fit, one to the band, one held out. Their sizes, and so
their order, must have been drawn at random, or the band promises nothing. Coefficients are non-negative least
squares of relative errors; the band is split conformal prediction with locally weighted scores (Lei et al.,
arXiv 1604.04173), right for any number of requests and any distribution of errors; the covariance is a
bootstrap over requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.energy.curve import CONFIDENCE, TERMS, CostCurve, Tested, request_features
from engine.energy.nnls import Array, nnls
from engine.errors import TokenjouleError

PARTS = ("fit", "band", "fit", "held out")
LEAST_BAND = math.ceil(CONFIDENCE / (1 - CONFIDENCE))  # 19: below, no finite band can promise 95 %
_LEAST_FIT = 3 * len(TERMS)
_LEAST_SIZES = {"prompt lengths": 3, "numbers of new tokens": 3, "numbers of rows": 2}
_RESAMPLES = 100
_LEAST_SHARE = 1e-9  # of the expected: errors of 0 would make scores of 0/0
_CONDITION = 1e7  # of the design, columns of length 1: half the digits of a float


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that was run: every row's prompt had `prompt_tokens`. J and s are means over `repeats`."""

    prompt_tokens: int
    new_tokens: int
    rows: int
    energy_j: float
    elapsed_s: float
    repeats: int = 1

    @property
    def features(self) -> tuple[float, ...]:
        return request_features([self.prompt_tokens] * self.rows, self.new_tokens, self.rows)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Curves of J and of s, and how they did on what was held out."""

    energy: CostCurve
    seconds: CostCurve
    tested: Tested


def dealt(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each part."""
    parts: dict[str, list[Sample]] = {name: [] for name in PARTS}
    for index, sample in enumerate(samples):
        parts[PARTS[index % len(PARTS)]].append(sample)
    return parts


def fit_curves(samples: Sequence[Sample], *, seed: int = 0) -> Fitted:
    """The curves of samples in the order in which they were run.

    Raises `TokenjouleError` where samples are too few, or of too few sizes to tell the terms apart, and where
    one cost nothing.
    """
    parts = dealt(samples)
    _check(samples, parts)
    energy, seconds = (
        _fit(parts["fit"], parts["band"], name, seed=seed) for name in ("energy_j", "elapsed_s")
    )
    energy_mape, energy_coverage = held_out(energy, parts["held out"], "energy_j")
    seconds_mape, seconds_coverage = held_out(seconds, parts["held out"], "elapsed_s")
    sizes = [
        (min(values), max(values))
        for values in zip(*((s.prompt_tokens, s.new_tokens, s.rows) for s in samples), strict=True)
    ]
    return Fitted(
        energy,
        seconds,
        Tested(
            prompt_tokens=sizes[0],
            new_tokens=sizes[1],
            rows=sizes[2],
            fitted=len(parts["fit"]),
            calibrated=len(parts["band"]),
            held_out=len(parts["held out"]),
            energy_mape=energy_mape,
            energy_coverage=energy_coverage,
            seconds_mape=seconds_mape,
            seconds_coverage=seconds_coverage,
        ),
    )


def held_out(curve: CostCurve, samples: Sequence[Sample], quantity: str) -> tuple[float, float]:
    """(mean absolute relative error, share inside the band) of samples that the curve has not seen."""
    errors, inside = [], 0
    for sample in samples:
        expected, low, high = curve.request(sample.features)
        value = getattr(sample, quantity)
        errors.append(abs(expected - value) / value)
        inside += low <= value <= high
    return sum(errors) / len(errors), inside / len(errors)


def _check(samples: Sequence[Sample], parts: dict[str, list[Sample]]) -> None:
    needed = {"fit": _LEAST_FIT, "band": LEAST_BAND, "held out": LEAST_BAND}
    short = [name for name, least in needed.items() if len(parts[name]) < least]
    if short:
        least = len(PARTS) * LEAST_BAND
        raise TokenjouleError(
            f"{len(samples)} requests are too few for an operating curve, which takes {least}: a quarter of "
            "them for the band and a quarter held out"
        )
    columns = zip(*((s.prompt_tokens, s.new_tokens, s.rows) for s in parts["fit"]), strict=True)
    for (name, least), values in zip(_LEAST_SIZES.items(), columns, strict=True):
        if len(set(values)) < least:
            raise TokenjouleError(
                f"a curve needs {least} different {name} or more, the requests have {len(set(values))}"
            )
    if any(sample.energy_j <= 0 or sample.elapsed_s <= 0 for sample in samples):
        raise TokenjouleError("the meter saw no energy in a request: its ticks are longer than the requests")
    design = np.array([sample.features for sample in parts["fit"]])
    design /= np.linalg.norm(design, axis=0)
    if not np.linalg.cond(design) < _CONDITION:
        raise TokenjouleError(
            "the sizes of the requests move together: the curve's terms cannot be told apart"
        )


def _fit(fit: Sequence[Sample], band: Sequence[Sample], quantity: str, *, seed: int) -> CostCurve:
    """Coefficients from `fit`, the band from `band`."""
    features, values = _arrays(fit, quantity)
    coefficients = _relative(features, values)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(fit), size=(_RESAMPLES, len(fit)))
    resampled = np.array([_relative(features[pick], values[pick]) for pick in picks])
    expected = features @ coefficients
    # How far single requests stray, as a line in what is expected: the band's shape. `factor` is its width.
    floor, share = _relative(
        np.stack([np.ones_like(expected), expected], axis=1), np.abs(values - expected), expected
    )
    share = max(float(share), _LEAST_SHARE)
    new, seen = _arrays(band, quantity)
    predicted = new @ coefficients
    scores = np.sort(np.abs(seen - predicted) / (floor + share * predicted))
    rank = math.ceil((len(scores) + 1) * CONFIDENCE)
    try:
        return CostCurve(
            coefficients=tuple(map(float, coefficients)),
            covariance=tuple(tuple(map(float, row)) for row in np.cov(resampled.T)),
            floor=float(floor),
            share=share,
            factor=float(scores[rank - 1]),
        )
    except ValueError as error:
        raise TokenjouleError(f"no curve of {quantity} can be fitted to these requests: {error}") from error


def _relative(features: Array, values: Array, scale: Array | None = None) -> Array:
    """Non-negative weights with the least squares of errors relative to `scale`, the values by default."""
    scale = values if scale is None else scale
    return nnls(features / scale[:, None], values / scale)


def _arrays(samples: Sequence[Sample], quantity: str) -> tuple[Array, Array]:
    """(n, 7) features and (n,) values."""
    return np.array([s.features for s in samples]), np.array([getattr(s, quantity) for s in samples])
