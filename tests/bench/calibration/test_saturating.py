import math

import numpy as np
import pytest

from bench.calibration.saturating import Saturating, fit_saturating

JOULES = np.array([1.0, 2, 3, 4, 6, 8, 11, 15, 20])


@pytest.mark.parametrize(("limit", "start", "scale"), [(0.9, 0.3, 4.0), (0.5, 0.45, 1.0), (0.4, 0.7, 3.0)])
def test_a_planted_curve_is_found_again_even_one_that_falls(limit, start, scale):
    planted = Saturating(limit, start, 1.0, scale, 0.0)
    found = fit_saturating(JOULES, np.array([planted.accuracy(j) for j in JOULES]))
    assert (found.limit, found.start, found.scale_j) == pytest.approx((limit, start, scale), rel=1e-3)
    assert found.rms < 1e-6


def test_the_best_joules_are_where_the_slope_is_the_price():
    curve = Saturating(0.9, 0.3, 1.0, 4.0, 0.0)
    best = curve.best_j(0.02)
    slope = (curve.accuracy(best + 1e-5) - curve.accuracy(best - 1e-5)) / 2e-5
    assert slope == pytest.approx(0.02, rel=1e-6)
    worth = [curve.accuracy(j) - 0.02 * j for j in (best - 0.1, best, best + 0.1)]
    assert max(worth) == worth[1]


def test_where_the_price_is_too_high_the_cheapest_is_best_and_free_joules_have_no_end():
    curve = Saturating(0.9, 0.3, 1.0, 4.0, 0.0)
    assert curve.best_j(0.151) == curve.best_j(1.0) == 1.0
    assert math.isinf(curve.best_j(0.0))
    assert Saturating(0.4, 0.7, 1.0, 4.0, 0.0).best_j(0.0) == 1.0


def test_noise_moves_the_fit_by_what_noise_does():
    rng = np.random.default_rng(0)
    planted = Saturating(0.9, 0.3, 1.0, 4.0, 0.0)
    truth = np.array([planted.accuracy(j) for j in JOULES])
    found = [fit_saturating(JOULES, truth + 0.01 * rng.standard_normal(len(JOULES))) for _ in range(40)]
    assert np.mean([f.limit for f in found]) == pytest.approx(0.9, abs=0.02)
    assert np.mean([f.rms for f in found]) == pytest.approx(0.01 * math.sqrt(6 / 9), rel=0.15)


def test_two_points_are_refused():
    with pytest.raises(ValueError, match="three points"):
        fit_saturating(JOULES[:2], JOULES[:2])
