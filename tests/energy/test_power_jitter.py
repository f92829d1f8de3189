"""The covariance of ticks whose times scatter, against what moving each reading's time really changes."""

from dataclasses import replace

import numpy as np
import pytest

from bench.attribution.scenarios import well_specified
from engine.energy.meter import Reading
from engine.energy.power_design import Design
from engine.energy.power_features import Features
from engine.energy.power_model import Run

MOVED_S = 2e-5
THETA_W = {"idle": 80.0, "prefill.const": 500.0, "decode.const": 300.0}


def expected_j(run, sensor, features, theta):
    return Design.of(run, features, sensor).seconds @ theta


@pytest.mark.parametrize("index", [10, 22], ids=["integrating", "sampling"])
def test_neighbouring_ticks_err_against_each_other_as_moved_times_do(index):
    """Loadings by finite differences; ticks that were missed are filled evenly, which the band leaves out."""
    scenario = well_specified(0, index, singles=1)
    request = scenario.single[0]
    sensor = replace(scenario.sensor, lag_s=0.0)
    run = Run(request.readings[:12], request.marks, request.start_s, request.end_s)
    features = Features.of(run.marks)
    theta = np.array([THETA_W.get(name, 0.0) for name in features.names])
    middle_j = expected_j(run, sensor, features, theta)
    loadings = np.empty((len(middle_j), len(run.readings)))
    for moved, reading in enumerate(run.readings):
        later = Reading(reading.before_s + MOVED_S, reading.after_s + MOVED_S, reading.energy_uj)
        readings = (*run.readings[:moved], later, *run.readings[moved + 1 :])
        loadings[:, moved] = expected_j(replace(run, readings=readings), sensor, features, theta) - middle_j
    true = loadings @ loadings.T / MOVED_S**2
    design = Design.of(run, features, sensor)
    given = design.jitter(theta, slice(0, len(middle_j))).dense()
    size = np.sqrt(np.outer(np.diag(true), np.diag(true)))
    assert np.max(np.abs(given - true) / size) < 0.25
    assert np.median(np.diag(given) / np.diag(true)) == pytest.approx(1.0, abs=0.05)
    beside = np.diag(true, 1) / np.diag(size, 1)
    assert beside.max() < -0.2, "a time that is late for one tick is early for the next"
