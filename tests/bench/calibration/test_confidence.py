import numpy as np
import pytest

from bench.calibration.confidence import calibration_error, cross_fitted, cuts, fit_isotonic


def readings(count: int, seed: int):
    """Confidence c is right with probability c²: a model that is too sure of itself."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(count)
    return confidence, (rng.random(count) < confidence**2).astype(float)


def test_the_isotonic_fit_is_the_best_rising_one():
    found = fit_isotonic(np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 1, 0, 1, 1]))
    assert found(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 9.0])) == pytest.approx([0, 0, 0.5, 0.5, 0.5, 1, 1])


def test_equal_confidences_share_a_level():
    found = fit_isotonic(np.array([0.5, 0.5, 0.9]), np.array([0.0, 1.0, 1.0]))
    assert found(np.array([0.5]))[0] == 0.5


def test_calibration_takes_the_error_of_a_model_that_is_too_sure():
    confidence, correct = readings(4000, 0)
    assert calibration_error(confidence, correct) > 0.1
    fitted = cross_fitted(confidence, correct, np.arange(4000))
    assert calibration_error(fitted, correct) < 0.04


def test_a_fit_never_sees_the_question_that_it_is_asked_about():
    # Two runs of each question, alike: a fit that saw one of them would know the other's answer.
    rng = np.random.default_rng(1)
    correct = np.repeat(rng.integers(2, size=300), 2).astype(float)
    confidence = np.repeat(rng.permutation(300) / 300, 2)
    fitted = cross_fitted(confidence, correct, np.repeat(np.arange(300), 2))
    assert np.corrcoef(fitted, correct)[0, 1] < 0.2


def test_cuts_divide_what_differs_and_nothing_else():
    confidence, correct = readings(4000, 2)
    found = cuts(confidence, correct, 5)
    assert 2 <= len(found) <= 4 and list(found) == sorted(found)
    assert cuts(np.full(50, 0.7), np.ones(50), 5) == ()
