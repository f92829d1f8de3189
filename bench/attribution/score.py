"""One scenario through every way of attributing, against the truth. Owns what is compared with what.

Errors are against the counter's own joules, which are the true ones times its gain: no software can know the
gain. Intervals are judged twice, without the gain's term against the counter's joules and with it against the
true ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from bench.attribution.scenarios import Scenario
from bench.attribution.simulated_request import Request
from bench.attribution.true_power import Array
from engine.energy.attribution import attribute
from engine.energy.baselines import held_windows_uj, power_times_time_uj
from engine.energy.meter import Sensor
from engine.energy.model_attribution import attribute_by_model
from engine.energy.power_fit import fit_power
from engine.energy.power_model import NotIdentifiable, PowerModel, Run

Z = 1.96  # half of an interval of 95 %, in standard deviations
MODEL, ALONE, CONSERVED, INTERPOLATED, WINDOWS, POWER_TIME = (
    "model",
    "model, no calibration",
    "model, conserved",
    "interpolated",
    "windows of the held counter",
    "power × time",
)
ARMS = (MODEL, ALONE, CONSERVED, INTERPOLATED, WINDOWS, POWER_TIME)


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

    `single` holds nothing for a request that was refused. `refused`: why, each time, by "calibration",
    "single", "alone" or "repeated"; `flagged`: the calibration's doubts.
    """

    cell: str
    single: dict[str, tuple[Score, ...]]
    pooled: dict[str, Score]
    refused: dict[str, tuple[str, ...]]
    flagged: tuple[str, ...]
    residual_scale: float | None
    fit_s: float
    attribute_s: float


class Refusals:
    """What was refused, and why."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[str, ...]] = {}

    def note(self, name: str, error: NotIdentifiable) -> None:
        """One more."""
        self.reasons[name] = (*self.reasons.get(name, ()), str(error))


Modelled = Sequence[tuple[Request, Estimate, Estimate]]  # by the model, and conserved


def score(scenario: Scenario) -> Outcome:
    """Calibrate, attribute, compare."""
    sensor, refusals = scenario.sensor, Refusals()
    begun_s = time.perf_counter()
    calibrated = _fit(scenario.calibration, sensor, "calibration", refusals)
    fit_s = time.perf_counter() - begun_s
    begun_s = time.perf_counter()
    single = _by_model(scenario.single, sensor, calibrated, "single", refusals) if calibrated else ()
    attribute_s = (time.perf_counter() - begun_s) / len(scenario.single)
    alone = _by_model(scenario.single, sensor, None, "alone", refusals)
    together = _fit(scenario.repeated, sensor, "repeated", refusals)
    pool = _by_model(scenario.repeated, sensor, together, "repeated", refusals) if together else ()
    if len(pool) < len(scenario.repeated):
        pool = ()

    def judged(estimate: Estimate, request: Request) -> Score:
        return _score(estimate, request, scenario.counter.gain, sensor.gain_error or 0.0)

    scores = {
        MODEL: [judged(model, request) for request, model, _ in single],
        ALONE: [judged(model, request) for request, model, _ in alone],
        CONSERVED: [judged(conserved, request) for request, _, conserved in single],
    }
    repeats = {MODEL: [model for _, model, _ in pool], CONSERVED: [conserved for _, _, conserved in pool]}
    for arm, estimate in PLAIN.items():
        scores[arm] = [judged(estimate(request, sensor), request) for request in scenario.single]
        repeats[arm] = [estimate(request, sensor) for request in scenario.repeated]
    mean = _mean_request(scenario.repeated)
    return Outcome(
        cell=scenario.cell.name,
        single={arm: tuple(found) for arm, found in scores.items() if found},
        pooled={arm: judged(_mean(found), mean) for arm, found in repeats.items() if found},
        refused=refusals.reasons,
        flagged=calibrated.doubts if calibrated else (),
        residual_scale=calibrated.residual_scale if calibrated else None,
        fit_s=fit_s,
        attribute_s=attribute_s,
    )


def _fit(requests: Sequence[Request], sensor: Sensor, name: str, refusals: Refusals) -> PowerModel | None:
    try:
        return fit_power([as_run(request) for request in requests], sensor)
    except NotIdentifiable as error:
        refusals.note(name, error)
        return None


def as_run(request: Request) -> Run:
    """What the fit is given of a request."""
    return Run(request.readings, request.marks, request.start_s, request.end_s)


def _by_model(
    requests: Sequence[Request], sensor: Sensor, power: PowerModel | None, name: str, refusals: Refusals
) -> Modelled:
    """Estimates of those requests that are not refused; without `power` each is fitted alone."""
    found: list[tuple[Request, Estimate, Estimate]] = []
    for request in requests:
        try:
            account = attribute_by_model(as_run(request), sensor, power)
        except NotIdentifiable as error:
            refusals.note(name, error)
            continue
        if account.model_uj is None or account.model_sd_uj is None or account.phases is None:
            raise ValueError("an attribution by the model without the model's figures")
        decode = account.phases["answer"]
        model = Estimate(
            np.array(account.model_uj),
            np.array(account.model_sd_uj),
            account.phases["prefill"].sd_uj,
            decode.energy_uj,
            decode.sd_uj,
        )
        account_sd_uj = np.array(account.step_sd_uj)
        conserved = Estimate(np.array(account.steps_uj, float), account_sd_uj, float(account_sd_uj[0]))
        found.append((request, model, conserved))
    return found


def _interpolated(request: Request, sensor: Sensor) -> Estimate:
    found = attribute(request.readings, request.marks, sensor, start_s=request.start_s, end_s=request.end_s)
    steps_uj = np.array(found.steps_uj, float)
    if not sensor.has_intervals:
        return Estimate(steps_uj)
    return Estimate(steps_uj, np.array(found.step_sd_uj), found.step_sd_uj[0])


def _windows(request: Request, sensor: Sensor) -> Estimate:
    return Estimate(np.array(held_windows_uj(request.readings, request.marks)))


def _power_times_time(request: Request, sensor: Sensor) -> Estimate:
    return Estimate(np.array(power_times_time_uj(request.readings, request.marks)))


PLAIN: dict[str, Callable[[Request, Sensor], Estimate]] = {
    INTERPOLATED: _interpolated,
    WINDOWS: _windows,
    POWER_TIME: _power_times_time,
}


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


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of repeats.

    Its deviation is the mean of theirs, not less: repeats share the powers that were fitted to all of them.
    """

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None

    sds = [estimate.step_sd_uj for estimate in estimates if estimate.step_sd_uj is not None]
    return Estimate(
        np.mean([estimate.steps_uj for estimate in estimates], axis=0),
        np.mean(sds, axis=0) if len(sds) == len(estimates) else None,
        mean([estimate.prefill_sd_uj for estimate in estimates]),
        mean([estimate.decode_uj for estimate in estimates]),
        mean([estimate.decode_sd_uj for estimate in estimates]),
    )


def _mean_request(requests: Sequence[Request]) -> Request:
    """The first, with the mean of all truths."""
    return replace(
        requests[0],
        true_uj=np.mean([request.true_uj for request in requests], axis=0),
        true_window_uj=fmean(request.true_window_uj for request in requests),
    )
