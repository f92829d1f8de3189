"""The powers of a run's work, fitted beside its operating curve: what attribution starts from."""

import math
from collections.abc import Sequence

from bench.tables import markdown
from engine.energy.meter import Sensor
from engine.energy.power_model import NotIdentifiable, PowerModel, Run


def power_of(runs: Sequence[Run], sensor: Sensor, *, fresh: bool) -> tuple[PowerModel | None, str]:
    """(the powers; or None, and in one line why). `fresh`: every read of the meter tells of now."""
    from engine.energy.power_fit import fit_power

    reason = why_none(sensor, fresh=fresh)
    if reason:
        return None, f"no power model: {reason}"
    try:
        return fit_power(runs, sensor), ""
    except NotIdentifiable as reason:
        return None, f"no power model: {reason}"


def why_none(sensor: Sensor, *, fresh: bool) -> str:
    """What keeps a power model from being fitted to this sensor's readings; "" where nothing does."""
    if fresh:
        return "this source tells of every step by itself"
    if sensor.lag_s is None or sensor.window_s is None:
        return "lag and window of the sensor are unknown; python -m bench.sensor finds them"
    return ""


def power_table(power: PowerModel) -> str:
    """The coefficients with their 95 % intervals, and what speaks against them."""
    rows = [
        [name, f"{value:.4g} ± {1.96 * math.sqrt(max(power.covariance[i][i], 0.0)):.2g}"]
        for i, (name, value) in enumerate(zip(power.features, power.theta, strict=True))
    ]
    said = [f"powers from {power.ticks} ticks of {power.runs} requests", markdown(("power", "W"), rows)]
    return "\n\n".join([*said, *(f"doubt: {doubt}" for doubt in power.doubts)])
