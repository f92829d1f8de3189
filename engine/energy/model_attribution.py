"""Joules of each step by a power model: one request fitted together with what is known of the device."""

from engine.energy.attribution import Attribution
from engine.energy.meter import Sensor
from engine.energy.power_model import PowerModel, Run


def attribute_by_model(run: Run, sensor: Sensor, power: PowerModel) -> Attribution:
    """The conserved account and the model's figures, each with deviations, in µJ.

    Raises `NotIdentifiable` where the model does not cover this request's steps, `ValueError` as `attribute`.
    """
    raise NotImplementedError
