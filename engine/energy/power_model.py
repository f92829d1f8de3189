"""The power of each kind of work as a few coefficients with a covariance: what a fit finds and a request uses.

    P(t) = idle · 1[idle] + Σ over kinds (const + slope · x) · 1[a step of that kind runs]

x is the number of prompt tokens of a prefill step (`tokens`), the cached length of all rows of a decode
step (`length`), the number of its rows (`rows`). Coefficients are in W of the sensor, its gain included.
Fitting is `power_fit`'s, using is `model_attribution`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from engine.energy.attribution import StepMark
from engine.energy.meter import Reading
from engine.errors import TokenjouleError

SCHEMA = "tokenjoule.power/1"
IDLE = "idle"


class NotIdentifiable(TokenjouleError):  # noqa: N818 - a verdict on a design, not a defect
    """These readings cannot tell the powers apart; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request as the fit sees it: readings around it, its steps in order of time, its ends."""

    readings: tuple[Reading, ...]
    marks: tuple[StepMark, ...]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Noise:
    """What the readings scatter by beyond the model, each a standard deviation.

    `jitter_s`: the time that a reading tells of; `white_w`: mean power over a tick of `tick_s`, independent
    from tick to tick; `drift`: all powers of a request together, as a fraction, between requests.
    """

    jitter_s: float
    white_w: float
    drift: float
    tick_s: float


@dataclass(frozen=True, slots=True)
class PowerModel:
    """`theta[i]` is the coefficient of `features[i]`, never negative; `covariance` is (p, p), W².

    `seen[i]`: the lowest and highest value of the feature's x in the pool (0, 0 for a constant). A slope that
    the pool could not tell from its constant is not among the features; the constant then holds both and its
    `seen` is the x it was seen at. `residual_scale`: root of the mean squared whitened residual, 1 where the
    noise is what the model says. `doubts`: what in the residuals speaks against the sensor or the model.
    """

    features: tuple[str, ...]
    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    seen: tuple[tuple[float, float], ...]
    noise: Noise
    residual_scale: float
    ticks: int
    runs: int
    doubts: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One plain object."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The model that `to_json` made. Raises `ValueError` for what is missing, unknown or bad."""
        raise NotImplementedError
