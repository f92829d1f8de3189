"""Fits a `PowerModel` to pooled requests: generalised least squares on the ticks' joules."""

from collections.abc import Sequence

from engine.energy.meter import Sensor
from engine.energy.power_model import PowerModel, Run


def fit_power(runs: Sequence[Run], sensor: Sensor, *, prior: PowerModel | None = None) -> PowerModel:
    """The powers that the readings of all `runs` agree on best, with their covariance.

    `prior`: what is known from before, widened by its own drift. Raises `NotIdentifiable` for a design that
    cannot tell the powers apart, `ValueError` for readings that fall or a run without steps.
    """
    raise NotImplementedError
