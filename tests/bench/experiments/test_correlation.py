"""Spearman with a permutation test: exact where few points are, honest where they are too few."""

import random

import pytest

from bench.experiments.correlation import spearman


def test_a_perfect_order_of_five_has_the_smallest_p_that_five_allow() -> None:
    found = spearman([1, 2, 3, 4, 5], [2, 4, 8, 16, 32])
    assert found.rho == pytest.approx(1.0)
    assert found.p == pytest.approx(2 / 120)
    assert found.low is None and "10 points" in (found.reason or "")
    assert spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).rho == pytest.approx(-1.0)


def test_ties_share_their_rank() -> None:
    """By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4."""
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]).rho == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_what_cannot_be_told_is_not() -> None:
    assert spearman([1, 2], [1, 2]).rho is None
    constant = spearman([1, 1, 1], [1, 2, 3])
    assert constant.rho is None and constant.p is None and constant.reason == "one of the two does not vary"
    with pytest.raises(ValueError, match="pairs"):
        spearman([1, 2, 3], [1, 2])


def test_many_points_have_an_interval_around_rho_and_a_p_that_is_never_zero() -> None:
    rng = random.Random(1)
    x = [rng.random() for _ in range(40)]
    found = spearman(x, [value + rng.gauss(0, 0.2) for value in x])
    assert found.rho is not None and found.low is not None and found.high is not None and found.p is not None
    assert found.low < found.rho < found.high < 1
    assert 0 < found.p < 0.001


def test_p_is_uniform_where_nothing_hangs_together() -> None:
    rng = random.Random(2)
    ps = [spearman(rng.sample(range(6), 6), rng.sample(range(6), 6)).p or 0.0 for _ in range(300)]
    assert 0.02 <= sum(p <= 0.1 for p in ps) / len(ps) <= 0.15
