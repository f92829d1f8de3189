"""One scenario through every way of attributing, against the truth. Owns what is compared with what.

Errors are against the counter's own joules, which are the true ones times its gain: no software can know the
gain. Intervals are judged twice, without the gain's term against the counter's joules and with it against the
true ones.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.scenarios import Scenario
from bench.simulated_request import Request
from bench.true_power import Array
from engine.energy.attribution import attribute
from engine.energy.baselines import held_windows_uj, power_times_time_uj
from engine.energy.meter import Sensor
from engine.energy.model_attribution import attribute_by_model
from engine.energy.power_fit import fit_power
from engine.energy.power_model import NotIdentifiable, PowerModel, Run

Z = 1.96  # half of an interval of 95 %, in standard deviations
MODEL, CONSERVED, INTERPOLATED, WINDOWS, POWER_TIME = (
    "model",
    "model, conserved",
    "interpolated",
    "windows of the held counter",
    "power × time",
)
ARMS = (MODEL, CONSERVED, INTERPOLATED, WINDOWS, POWER_TIME)


@dataclass(frozen=True, slots=True)
class Estimate:
    """µJ of every step and of all decoding; standard deviations, the gain left out, where there are any."""

    steps_uj: Array
    step_sd_uj: Array | None = None
    prefill_sd_uj: float | None = None
    decode_uj: float | None = None
    decode_sd_uj: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One request, or one mean of repeats, by one arm: relative errors, and whether intervals held the truth.

    `token_error`: mean absolute, over decode steps. Coverage by name: token (share of tokens), decode,
    prefill, and each "… with gain"; empty without intervals.
    """

    prefill_s: float
    prefill_error: float
    decode_error: float
    token_error: float
    covered: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's scores by arm, of single requests and of the mean of its repeats.

    `refused`: why the fit refused, by "calibration" or "repeated"; `flagged`: the calibration's doubts.
    """

    cell: str
    single: dict[str, tuple[Score, ...]]
    pooled: dict[str, Score]
    refused: dict[str, str]
    flagged: tuple[str, ...]
    residual_scale: float | None
    fit_s: float
    attribute_s: float


def score(scenario: Scenario) -> Outcome:
    """Calibrate, attribute, compare."""
    refused: dict[str, str] = {}
    begun_s = time.perf_counter()
    calibrated = _fit(scenario.calibration, scenario.sensor, "calibration", refused)
    fit_s = time.perf_counter() - begun_s
    pooled = _fit(scenario.repeated, scenario.sensor, "repeated", refused)
    single: dict[str, tuple[Score, ...]] = {}
    together: dict[str, Score] = {}
    begun_s = time.perf_counter()
    by_model = _by_model(scenario.single, scenario.sensor, calibrated, "single", refused)
    attribute_s = (time.perf_counter() - begun_s) / max(len(scenario.single), 1)
    by_pool = _by_model(scenario.repeated, scenario.sensor, pooled, "repeated", refused)
    gain, gain_error = scenario.counter.gain, scenario.sensor.gain_error or 0.0
    for arm in ARMS:
        alone = _estimates(arm, scenario.single, scenario.sensor, by_model)
        if alone:
            single[arm] = tuple(
                _score(estimate, request, gain, gain_error)
                for estimate, request in zip(alone, scenario.single, strict=True)
            )
        repeats = _estimates(arm, scenario.repeated, scenario.sensor, by_pool)
        if repeats:
            together[arm] = _pooled(repeats, scenario.repeated, gain, gain_error)
    return Outcome(
        scenario.cell.name,
        single,
        together,
        refused,
        calibrated.doubts if calibrated else (),
        calibrated.residual_scale if calibrated else None,
        fit_s,
        attribute_s,
    )


Modelled = Sequence[tuple[Estimate, Estimate]]  # by the model, and conserved


def _fit(
    requests: Sequence[Request], sensor: Sensor, name: str, refused: dict[str, str]
) -> PowerModel | None:
    try:
        return fit_power([as_run(request) for request in requests], sensor)
    except NotIdentifiable as error:
        refused[name] = str(error)
        return None


def as_run(request: Request) -> Run:
    """What the fit is given of a request."""
    return Run(request.readings, request.marks, request.start_s, request.end_s)


def _by_model(
    requests: Sequence[Request],
    sensor: Sensor,
    power: PowerModel | None,
    name: str,
    refused: dict[str, str],
) -> Modelled:
    """Estimates of every request, none where the fit or any request is refused."""
    if power is None:
        return []
    found = []
    for request in requests:
        try:
            account = attribute_by_model(as_run(request), sensor, power)
        except NotIdentifiable as error:
            refused[name] = str(error)
            return []
        if account.model_uj is None or account.model_sd_uj is None or account.phases is None:
            raise ValueError("an attribution by the model without the model's figures")
        decode = account.phases.get("answer")
        model = Estimate(
            np.array(account.model_uj),
            np.array(account.model_sd_uj),
            account.phases["prefill"].sd_uj,
            decode.energy_uj if decode else None,
            decode.sd_uj if decode else None,
        )
        found.append((model, Estimate(np.array(account.steps_uj, float))))
    return found


def _estimates(
    arm: str, requests: Sequence[Request], sensor: Sensor, by_model: Modelled
) -> Sequence[Estimate]:
    if arm == MODEL:
        return [model for model, _ in by_model]
    if arm == CONSERVED:
        return [conserved for _, conserved in by_model]
    plain: dict[str, Callable[[Request], Estimate]] = {
        INTERPOLATED: lambda request: _interpolated(request, sensor),
        WINDOWS: lambda r: Estimate(np.array(held_windows_uj(r.readings, r.marks))),
        POWER_TIME: lambda r: Estimate(np.array(power_times_time_uj(r.readings, r.marks))),
    }
    return [plain[arm](request) for request in requests]


def _interpolated(request: Request, sensor: Sensor) -> Estimate:
    found = attribute(request.readings, request.marks, sensor, start_s=request.start_s, end_s=request.end_s)
    steps_uj = np.array(found.steps_uj, float)
    if not sensor.has_intervals:
        return Estimate(steps_uj)
    return Estimate(steps_uj, np.array(found.step_sd_uj), found.step_sd_uj[0])


def _score(estimate: Estimate, request: Request, gain: float, gain_error: float) -> Score:
    true_uj = gain * request.true_uj
    decode_uj = estimate.decode_uj if estimate.decode_uj is not None else float(estimate.steps_uj[1:].sum())
    covered: dict[str, float] = {}

    def judge(name: str, found_uj: Array, sd_uj: Array, shown_uj: Array) -> None:
        covered[name] = _share_covered(found_uj, sd_uj, shown_uj)
        # The gain's deviation is a fraction of what is found; the truth is what is shown, the gain taken off.
        wide_uj = np.hypot(sd_uj, gain_error / Z * found_uj)
        covered[f"{name} with gain"] = _share_covered(found_uj, wide_uj, shown_uj / gain)

    if estimate.step_sd_uj is not None:
        judge("token", estimate.steps_uj[1:], estimate.step_sd_uj[1:], true_uj[1:])
    if estimate.prefill_sd_uj is not None:
        judge("prefill", estimate.steps_uj[:1], np.array([estimate.prefill_sd_uj]), true_uj[:1])
    if estimate.decode_sd_uj is not None:
        judge(
            "decode", np.array([decode_uj]), np.array([estimate.decode_sd_uj]), true_uj[1:].sum(keepdims=True)
        )
    return Score(
        prefill_s=request.marks[0].end_s - request.marks[0].start_s,
        prefill_error=float(estimate.steps_uj[0] / true_uj[0] - 1),
        decode_error=decode_uj / float(true_uj[1:].sum()) - 1,
        token_error=float(np.mean(np.abs(estimate.steps_uj[1:] / true_uj[1:] - 1))),
        covered=covered,
    )


def _share_covered(found_uj: Array, sd_uj: Array, true_uj: Array) -> float:
    return float(np.mean(np.abs(found_uj - true_uj) <= Z * sd_uj))


def _pooled(
    estimates: Sequence[Estimate], requests: Sequence[Request], gain: float, gain_error: float
) -> Score:
    """The mean of the repeats against the mean of their truths.

    Its deviation is the mean of theirs, not less: repeats share the powers that were fitted to all of them.
    """

    def mean_sd(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(values) else None

    sds = [estimate.step_sd_uj for estimate in estimates if estimate.step_sd_uj is not None]
    mean = Estimate(
        np.mean([estimate.steps_uj for estimate in estimates], axis=0),
        np.mean(sds, axis=0) if len(sds) == len(estimates) else None,
        mean_sd([estimate.prefill_sd_uj for estimate in estimates]),
        None,
        mean_sd([estimate.decode_sd_uj for estimate in estimates]),
    )
    first = requests[0]
    together = Request(
        first.readings,
        first.marks,
        first.start_s,
        first.end_s,
        np.mean([request.true_uj for request in requests], axis=0),
        float(np.mean([request.true_window_uj for request in requests])),
    )
    return _score(mean, together, gain, gain_error)
