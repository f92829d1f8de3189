"""Non-negative least squares: its result meets the conditions that only the best one meets."""

import numpy as np
import pytest

from engine.energy.nnls import nnls


def violation(design: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """By how much the conditions of Karush, Kuhn and Tucker are missed, relative to the columns."""
    gradient = (
        design.T @ (values - design @ weights) / np.linalg.norm(design, axis=0) / np.linalg.norm(values)
    )
    assert (weights >= 0).all()
    return float(max(gradient.max(), np.abs(gradient[weights > 0]).max(initial=0.0)))


def test_the_best_weights_are_found_whatever_the_columns_sizes() -> None:
    rng = np.random.default_rng(0)
    clipped = 0
    for _ in range(300):
        rows, columns = int(rng.integers(8, 60)), int(rng.integers(1, 8))
        design = rng.standard_normal((rows, columns)) * 10 ** rng.uniform(-4, 4, columns)
        values = rng.standard_normal(rows) * 10 ** rng.uniform(-4, 4)
        weights = nnls(design, values)
        assert violation(design, values, weights) < 1e-8
        clipped += bool((weights == 0).any())
    assert clipped > 200, "the bound must have mattered"


def test_cutting_off_negative_weights_would_be_caught() -> None:
    rng = np.random.default_rng(1)
    design, values = rng.standard_normal((20, 5)), rng.standard_normal(20)
    cut = np.maximum(np.linalg.lstsq(design, values, rcond=None)[0], 0.0)
    assert violation(design, values, cut) > 1e-3


def test_without_a_bound_in_the_way_it_is_least_squares() -> None:
    rng = np.random.default_rng(2)
    design = rng.uniform(0, 1, (50, 4))
    planted = np.array([1.0, 200.0, 0.03, 5.0])
    assert nnls(design, design @ planted) == pytest.approx(planted, rel=1e-9)


def test_columns_and_values_of_zeros_do_no_harm() -> None:
    design = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    assert nnls(design, np.array([2.0, 4.0, 6.0])) == pytest.approx([0.0, 2.0])
    assert nnls(design, np.zeros(3)).tolist() == [0.0, 0.0]
