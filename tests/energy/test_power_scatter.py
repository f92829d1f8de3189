"""Requests that scatter by more than their ticks explain: a bootstrap over requests widens the covariance."""

import numpy as np
import pytest

from bench.attribution.corners import CORNERS, corner_scenario
from bench.attribution.scenarios import Scenario
from bench.attribution.score import as_run
from engine.energy import power_fit
from engine.energy.power_model import PowerModel


def corner(words: str) -> Scenario:
    [found] = [corner for corner in CORNERS if corner.name.startswith(words)]
    return corner_scenario(found, 0, 0, singles=1)


def fitted(scenario: Scenario) -> PowerModel:
    return power_fit.fit_power([as_run(request) for request in scenario.calibration], scenario.sensor)


def test_steps_of_scattering_power_widen_the_intervals_and_are_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = corner("power of steps scatters")
    wide = fitted(scenario)
    assert any("intervals were widened" in doubt for doubt in wide.doubts), wide.doubts
    monkeypatch.setattr(power_fit, "_GROUPS", 99)  # no bootstrap
    narrow = fitted(scenario)
    assert not any("widened" in doubt for doubt in narrow.doubts)
    ratio = np.sqrt(np.diag(wide.covariance) / np.diag(narrow.covariance))
    assert (ratio >= 1 - 1e-9).all() and ratio.max() > 1.5


def test_levels_that_differ_are_drift_and_no_reason_to_widen() -> None:
    power = fitted(corner("power of requests differs"))
    assert power.doubts == () and 0.002 < power.noise.drift < 0.05
