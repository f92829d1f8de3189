"""What the residuals of a fit say against the sensor's figures or the model of power.

Each doubt is a direction in which a wrong assumption would move the ticks' joules; the residuals' weight
along it, beyond what the coefficients can take up, is a score with unit variance where nothing is wrong
(Rao 1948).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.energy.meter import Sensor
from engine.energy.power_design import Design
from engine.energy.power_estimate import Estimate
from engine.energy.power_features import Features
from engine.energy.power_model import Run
from engine.energy.power_trace import Array

_SURE = 4.0  # standard deviations
_STEP_S = 0.001  # by which the sensor's times are changed
_MATTERS = 0.05  # of the period, and _STEP_S at least: a sensor's times that are off by less do no harm


def doubts(
    runs: Sequence[Run], designs: Sequence[Design], found: Estimate, features: Features, sensor: Sensor
) -> tuple[str, ...]:
    """One line for the sensor's times and one for a power that changes, where the residuals contradict them.

    Lag, window and time constant move the ticks in much the same way: the one that explains most is named.
    """
    begin_s = min(float(design.ticks.times_s[0]) for design in designs)
    length_s = max(float(design.ticks.times_s[-1]) for design in designs) - begin_s
    warming = [
        design.seconds @ found.theta * ((design.ticks.times_s[1:] - begin_s) / length_s - 0.5)
        for design in designs
    ]
    window_s = (sensor.window_s or 0.0) + _STEP_S
    times = {
        "lag": replace(sensor, lag_s=(sensor.lag_s or 0.0) + _STEP_S),
        "window": replace(sensor, window_s=window_s),
        "time constant": replace(sensor, tau_s=sensor.tau_s + _STEP_S),
    }
    scores = {name: _score(found, _moved(runs, designs, found, features, to)) for name, to in times.items()}
    name, (score, steps) = max(scores.items(), key=lambda item: abs(item[1][0]))
    lines = []
    matters_s = max(_STEP_S, _MATTERS * (sensor.period_s or 0.0))
    if abs(score) > _SURE and abs(steps) * _STEP_S > matters_s:
        lines.append(
            "the readings do not fit the sensor's times: "
            f"as if its {name} were {steps * _STEP_S * 1e3:+.1f} ms off"
        )
    score, change = _score(found, warming)
    if abs(score) > _SURE:
        lines.append(f"the power changes by {change:+.1%} from the first to the last reading")
    return tuple(lines)


def _moved(
    runs: Sequence[Run], designs: Sequence[Design], found: Estimate, features: Features, sensor: Sensor
) -> list[Array]:
    """What a change of the sensor to `sensor` adds to every tick, in J."""
    return [
        (Design.of(run, features, sensor).seconds - design.seconds) @ found.theta
        for run, design in zip(runs, designs, strict=True)
    ]


def _score(found: Estimate, columns: Sequence[Array]) -> tuple[float, float]:
    """(standard deviations, how many times the columns) of the residuals that lie along the columns."""
    count = len(found.theta)
    along = [found.whiten(request, column) for request, column in enumerate(columns)]
    taken = sum(rows[:, :count].T @ column for rows, column in zip(found.whitened, along, strict=True))
    absorbed = found.covariance @ taken
    apart = [c - rows[:, :count] @ absorbed for rows, c in zip(found.whitened, along, strict=True)]
    square = sum(float(column @ column) for column in apart)
    if square <= 1e-12 * sum(float(column @ column) for column in along):
        return 0.0, 0.0
    dot = sum(float(column @ left) for column, left in zip(apart, found.left, strict=True))
    return float(dot / np.sqrt(square)), dot / square
