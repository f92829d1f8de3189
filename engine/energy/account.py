"""A request's account: by the power model where it can be had, else by interpolation, and then why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine.energy.attribution import Attribution, Cumulative, attribute
from engine.energy.meter import Sensor
from engine.energy.power_model import NotIdentifiable, PowerModel, Run
from engine.energy.row_parts import row_parts
from kernels.cost import Dims


@dataclass(frozen=True, slots=True)
class Account:
    """`found`: None where the meter told nothing. `refusal`: why there is no model.

    `phase_sd_uj` and `window_sd_uj`: standard deviations of the account's own µJ, without the sensor's gain;
    None where there is no honest one.
    """

    found: Attribution | None
    phase_sd_uj: Mapping[str, float] | None
    window_sd_uj: float | None
    refusal: str | None


def settle(
    run: Run, sensor: Sensor, power: PowerModel | None, dims: Dims | None, *, by_model: bool
) -> Account:
    """The account of a request of two readings or more. `by_model`: a model is wanted.

    A sensor whose lag nobody knows is no refusal: nothing was asked of its readings.
    """
    refusal = None
    if by_model and sensor.lag_s is not None and sensor.window_s is not None:
        from engine.energy.model_attribution import attribute_by_model  # numpy, which meters can do without

        try:
            return _by_model(run, attribute_by_model(run, sensor, power, dims=dims), dims)
        except NotIdentifiable as reason:
            refusal = str(reason)
    found = attribute(run.readings, run.marks, sensor, start_s=run.start_s, end_s=run.end_s)
    if not sensor.has_intervals:
        return Account(found, None, None, refusal)
    rise = Cumulative(run.readings, sensor)
    window_sd_uj = rise.deviation([(run.start_s, run.end_s)])
    if refusal is not None:
        return Account(found, None, window_sd_uj, refusal)
    deviations = {}
    for name in {share.phase for mark in run.marks for share in mark.shares}:
        spans = [(m.start_s, m.end_s) for m in run.marks if any(s.phase == name for s in m.shares)]
        rounding_uj = sensor.resolution_uj * math.sqrt(len(spans) / 6)  # two for each span
        deviations[name] = math.hypot(rise.deviation(spans), rounding_uj)
    return Account(found, deviations, window_sd_uj, None)


def _by_model(run: Run, found: Attribution, dims: Dims | None) -> Account:
    """Deviations of the account's µJ: the model's, and the distance of the two figures, added in squares."""
    assert found.phases is not None
    assert found.model_window_uj is not None
    assert found.model_window_sd_uj is not None
    booked: dict[str, float] = dict.fromkeys(found.phases, 0.0)
    for mark, step_uj in zip(run.marks, found.steps_uj, strict=True):
        for share, part in zip(mark.shares, row_parts(mark, dims), strict=True):
            booked[share.phase] += step_uj * part
    deviations = {
        name: math.hypot(phase.sd_uj, booked[name] - phase.energy_uj) for name, phase in found.phases.items()
    }
    window_sd_uj = math.hypot(found.model_window_sd_uj, found.window_uj - found.model_window_uj)
    return Account(found, deviations, window_sd_uj, None)
