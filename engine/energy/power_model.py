"""The power of each kind of work as a few coefficients with a covariance; an operating curve keeps them.

    P(t) = idle · 1[idle] + Σ over kinds (const + slope · x) · 1[a step of that kind runs]

x is the number of prompt tokens of a prefill step (`tokens`), the cached length of all rows of a decode
step (`length`), the number of its rows (`rows`). Coefficients are in W as the sensor sees them, its gain
included. Fitting is `power_fit`'s, using is `model_attribution`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.energy.attribution import StepMark
from engine.energy.meter import Reading
from engine.errors import TokenjouleError

IDLE = "idle"


class NotIdentifiable(TokenjouleError):
    """These readings cannot tell the powers apart; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request as the fit sees it: readings around it, its steps in order of time, its ends.

    `first_is_change`: the first reading was taken when the counter changed. Where it was not, nobody knows
    how old its energy is, and the first tick counts for the account but not for the fit.
    """

    readings: tuple[Reading, ...]
    marks: tuple[StepMark, ...]
    start_s: float
    end_s: float
    first_is_change: bool = True


@dataclass(frozen=True, slots=True)
class Noise:
    """What readings scatter by beyond the model, as standard deviations.

    `jitter_s`: of the time that a reading tells of. `white_w`: of a tick's mean power, independent from tick
    to tick. `ratio`: the same as a fraction of the power. `drift`: of all powers of a request together, as a
    fraction, from request to request.
    """

    jitter_s: float = 0.0
    white_w: float = 0.0
    ratio: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True, slots=True)
class PowerModel:
    """`theta[i]` is the coefficient of `features[i]`, never negative; `covariance` is (p, p).

    `seen`: the lowest and highest x of every slope in the pool; one that is not among the features could not
    be told from its constant, which then holds both. `residual_scale`: root of the mean squared whitened
    residual, 1 where the readings scatter as `noise` says. `doubts`: what in the residuals speaks against
    sensor or model, one line each.
    """

    features: tuple[str, ...]
    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    seen: Mapping[str, tuple[float, float]]
    noise: Noise
    residual_scale: float
    ticks: int
    runs: int
    doubts: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.features)
        square = len(self.covariance) == count and all(len(row) == count for row in self.covariance)
        if count < 1 or len(self.theta) != count or not square:
            raise ValueError(
                f"{count} features do not fit {len(self.theta)} coefficients and their covariance"
            )
        if any(not value >= 0 for value in self.theta):
            raise ValueError("a coefficient must not be negative")
