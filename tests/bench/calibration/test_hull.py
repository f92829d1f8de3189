import math
import random

import numpy as np
import pytest

from bench.calibration.hull import hull


def test_the_hull_of_a_saturating_curve_with_a_dip_leaves_the_dip_out():
    found = hull([1, 2, 3, 4, 5], [0.2, 0.6, 0.5, 0.8, 0.7])
    assert found.points == (0, 1, 3)
    assert found.accuracy_at(3) == pytest.approx(0.7)
    assert found.energy_at(0.7) == pytest.approx(3)
    assert math.isnan(found.accuracy_at(0.5)) and math.isnan(found.energy_at(0.9))


def test_the_tangent_is_the_best_point_at_every_price():
    rng = random.Random(0)
    for _ in range(200):
        joules = np.array([rng.choice((1.0, 2.0, 3.0)) * rng.random() + i for i in range(8)])
        accuracy = np.array([rng.random() for _ in range(8)])
        found = hull(joules, accuracy)
        for per_j in (0.0, 0.01, 0.1, 1.0, 10.0):
            best = (accuracy - per_j * joules).max()
            corner = found.points[found.tangent(per_j)]
            assert accuracy[corner] - per_j * joules[corner] == pytest.approx(best)


def test_the_knee_is_the_corner_farthest_above_the_chord():
    found = hull([0, 1, 2, 10], [0.0, 0.5, 0.8, 1.0])
    above = found.accuracy - np.interp(found.energy_j, found.energy_j[[0, -1]], found.accuracy[[0, -1]])
    assert found.knee() == int(np.argmax(above)) == 2


def test_one_point_is_a_hull_and_of_two_equally_dear_the_better_counts():
    assert hull([2.0], [0.5]).knee() == 0
    found = hull([2.0, 2.0, 1.0], [0.5, 0.9, 0.4])
    assert found.points == (2, 1)
