"""What a request costs on one model and device, as a function of its size: the operating curve.

Of p prompts of n tokens, r rows and s = m - 1 decode steps (prefill gives the first of m new tokens)

    E = base + p · (prompt + token·n + square·n²) + s · (step + row_step·r) + position · r · (s·n + s·(s+1)/2)

in J; seconds have the same form, fitted apart. Every term is a piece of work: a prompt's prefill, linear and
in its attention; a step's weights, read once for all rows; each row in it; each cached position that a row
reads. None is negative. With p = 1 this is a + b·n + c·n² + (d + d'·r)·m + e·r·(n·m + m²/2), its constants
shifted by the one step that prefill saves. `curve_fit` fits, `curve_store` keeps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.energy.power_model import PowerModel
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.stop.rule import StoppingRule  # imports policies, which import the ledger, which imports this

TERMS = ("base", "prompt", "token", "square", "step", "row_step", "position")
CONFIDENCE = 0.95
_Z95 = 1.96
MOST_OFF = 0.25  # mean error on requests held out, relative, beyond which no budget is kept by a curve
_LEAST = 1e-12  # J or s of a decode step: below, a run that corrects the curve divides by next to nothing

Features = tuple[float, ...]  # (7,), in the order of TERMS
Predicted = tuple[float, float, float]  # expected, and the two ends of its 95 % band


def request_features(prompts: Sequence[int], new_tokens: int, rows: int) -> Features:
    """Of prefills of `prompts` tokens each, and `new_tokens` for each of `rows`.

    Fewer prompts than rows: rows share them evenly, as samples of one question do. Raises `ValueError` for
    numbers below 1.
    """
    if not prompts or min(*prompts, new_tokens, rows) < 1:
        raise ValueError(f"prompts {list(prompts)}, new_tokens {new_tokens} and rows {rows} start from 1")
    steps, tokens = new_tokens - 1, sum(prompts)
    mean = tokens / len(prompts)
    return (
        1.0,
        float(len(prompts)),
        float(tokens),
        float(sum(prompt**2 for prompt in prompts)),
        float(steps),
        float(rows * steps),
        rows * (steps * mean + steps * (steps + 1) / 2),
    )


def step_features(rows: int, positions: int) -> Features:
    """Of one decode step over `rows`, which hold `positions` tokens together, those being fed included."""
    return (0.0, 0.0, 0.0, 0.0, 1.0, float(rows), float(positions))


@dataclass(frozen=True, slots=True)
class CostCurve:
    """One quantity, J or s. `coefficients` (7,), none negative, and their `covariance` (7, 7).

    A request's band is ± `factor` · (`floor` + `share` · expected), `factor` by split conformal prediction:
    it holds CONFIDENCE of new requests, whatever their errors' distribution. Raises `ValueError` for a value
    that makes no sense.
    """

    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    floor: float
    share: float
    factor: float

    def __post_init__(self) -> None:
        size = len(TERMS)
        if [len(self.coefficients), len(self.covariance)] != [size, size] or any(
            len(row) != size for row in self.covariance
        ):
            raise ValueError(f"a curve has {size} coefficients and their covariance")
        numbers = (*self.coefficients, self.floor, self.share, self.factor)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("coefficients and band must be finite and not negative")
        if not all(math.isfinite(number) for row in self.covariance for number in row):
            raise ValueError("the covariance must be finite")
        if self.step(1, 1)[0] < _LEAST:
            raise ValueError("a decode step must cost something")

    def expected(self, features: Features) -> float:
        return sum(weight * part for weight, part in zip(self.coefficients, features, strict=True))

    def request(self, features: Features) -> Predicted:
        """With the band of a single request."""
        expected = self.expected(features)
        half = self.factor * (self.floor + self.share * expected)
        return expected, max(expected - half, 0.0), expected + half

    def step(self, rows: int, positions: int) -> Predicted:
        """One decode step, with the 95 % interval of its mean.

        By the coefficients' covariance: single steps scatter more, and no meter resolves them.
        """
        features = step_features(rows, positions)
        expected = self.expected(features)
        pairs = zip(features, self.covariance, strict=True)
        variance = sum(f * sum(v * g for v, g in zip(row, features, strict=True)) for f, row in pairs if f)
        half = _Z95 * math.sqrt(max(variance, 0.0))
        return expected, max(expected - half, 0.0), expected + half


@dataclass(frozen=True, slots=True)
class CurveKey:
    """What a curve is a curve of; another value of any of these is another curve.

    `fingerprint`: of the model's config. `device_uuid`: "" for a CPU. `source`: the energy source and which
    simulation of it (`meter.source_key`). `peak_w`: the most its device can draw, which moves with a GPU's
    power limit and the estimate's watts per core; None where the source tells none.
    """

    model: str
    fingerprint: str
    quantization: str
    dtype: str
    backend: str
    device: str
    device_uuid: str
    source: str
    peak_w: float | None


# What of a key is the model's: of another one a curve tells nothing, not even where thinking stops paying.
OF_MODEL = ("model", "fingerprint", "quantization", "dtype")
_ALL = tuple(CurveKey.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a curve comes from. `date`: ISO 8601. `note`: the energy source's own. Empty where not known.

    `shape_only`: the weights were random, which changes no cost.
    """

    date: str
    command: str
    commit: str
    versions: Mapping[str, str]
    note: str
    shape_only: bool


@dataclass(frozen=True, slots=True)
class Tested:
    """Sizes that were run, (least, most) of each, and what requests that nothing was fitted to say.

    `fitted`, `calibrated`, `held_out`: requests. `energy_mape`, `seconds_mape`: mean absolute error of those
    held out, relative. `energy_coverage`, `seconds_coverage`: the share of them inside their band.
    """

    prompt_tokens: tuple[int, int]
    new_tokens: tuple[int, int]
    rows: tuple[int, int]
    fitted: int
    calibrated: int
    held_out: int
    energy_mape: float
    energy_coverage: float
    seconds_mape: float
    seconds_coverage: float


@dataclass(frozen=True, slots=True)
class OperatingCurve:
    """Joules and seconds of requests on one model and device. `measured`: whether its joules were.

    `accuracy` (of answers, by category) belongs to others and is kept as it is. `power`: what each kind of
    work draws, for attribution; None where the sensor could not tell. `stopping`: where thinking stops
    paying, in the joules of this curve; None until `bench.calibrate` has fitted it. Raises `UsageError` for a
    rule of another model or quantisation.
    """

    fits: CurveKey
    measured: bool
    energy: CostCurve
    seconds: CostCurve
    tested: Tested
    provenance: Provenance
    accuracy: Mapping[str, Any] | None = None
    power: PowerModel | None = None
    stopping: "StoppingRule | None" = None

    def __post_init__(self) -> None:
        if self.stopping is not None:
            self.stopping.require(self.fits.model, self.fits.quantization)

    @property
    def off(self) -> float:
        """Mean relative error on requests held out: of joules or of seconds, whichever is worse."""
        return max(self.tested.energy_mape, self.tested.seconds_mape)

    @property
    def predicts(self) -> bool:
        """Whether it is near enough to the truth for budgets."""
        return self.off <= MOST_OFF

    def predict(self, prompt_tokens: int, new_tokens: int, rows: int = 1, *, prompts: int = 0) -> Predicted:
        """(expected, low, high) J of a request. `prompts`: how many are prefilled, 0 for one of each row."""
        features = request_features([prompt_tokens] * (prompts or rows), new_tokens, rows)
        return self.energy.request(features)

    def predict_s(self, prompt_tokens: int, new_tokens: int, rows: int = 1, *, prompts: int = 0) -> Predicted:
        """As `predict`, in s."""
        features = request_features([prompt_tokens] * (prompts or rows), new_tokens, rows)
        return self.seconds.request(features)

    def step_j(self, length: int, rows: int = 1) -> Predicted:
        """(expected, low, high) J of the decode step that makes every row `length` tokens long.

        The interval is of the step's mean.
        """
        return self.energy.step(rows, rows * length)

    def minimum_j(self, prompts: Sequence[int], answer_tokens: int = 1) -> float:
        """The least J of prompts of so many tokens and an answer to each: the low end of the band.

        Where a band reaches down to nothing, which no prompt costs, it is what is expected.
        """
        expected, low, _ = self.energy.request(request_features(prompts, answer_tokens, len(prompts)))
        return low if low > 0 else expected

    def power_w(self, prompts: Sequence[int]) -> float:
        """Mean power of prefilling these prompts or of decoding behind them, whichever draws more."""
        prefill = request_features(prompts, 1, len(prompts))
        decode = step_features(len(prompts), sum(prompts) + len(prompts))
        seconds = [self.seconds.expected(work) for work in (prefill, decode)]
        joules = [self.energy.expected(work) for work in (prefill, decode)]
        return max(j / s for j, s in zip(joules, seconds, strict=True) if s > 0)

    def covers(self, prompt_tokens: int, new_tokens: int, rows: int = 1) -> bool:
        """Whether a request lies within the sizes that were run; beyond them a band promises nothing."""
        asked = (prompt_tokens, new_tokens, rows)
        ran = (self.tested.prompt_tokens, self.tested.new_tokens, self.tested.rows)
        return all(low <= size <= high for size, (low, high) in zip(asked, ran, strict=True))

    def mismatch(self, key: CurveKey, names: Sequence[str] = _ALL) -> str:
        """Why this is no curve of `key`, looking at the fields `names`; "" where it is one."""
        for name in names:
            own, asked = getattr(self.fits, name), getattr(key, name)
            if own != asked:
                return f"the operating curve is of {name} {own!r}, this run has {asked!r}"
        return ""

    def require(self, key: CurveKey, names: Sequence[str] = _ALL) -> None:
        """Raises `UsageError` of one line where this is no curve of `key`, as `mismatch` has it."""
        if problem := self.mismatch(key, names):
            raise UsageError(problem)
