"""Quantiles and tails against published tables."""

import pytest

from bench.experiments.distributions import beta_share, f_tail, t_quantile


@pytest.mark.parametrize(
    ("freedom", "confidence", "table"),
    [(1, 0.95, 12.7062), (2, 0.95, 4.30265), (5, 0.95, 2.57058), (30, 0.95, 2.04227), (5, 0.99, 4.03214)],
)
def test_quantiles_of_t_are_those_of_the_tables(freedom: int, confidence: float, table: float) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(table, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "above", "below", "p"),
    [
        (3.3258, 5, 10, 0.05),
        (4.9382, 3, 20, 0.01),
        (161.4476, 1, 1, 0.05),
        (0.0, 3, 3, 1.0),
        (2.0, 2, 2, 1 / 3),
    ],
)
def test_tails_of_f_are_those_of_the_tables(ratio: float, above: int, below: int, p: float) -> None:
    assert f_tail(ratio, above, below) == pytest.approx(p, rel=2e-4)


def test_the_beta_function_is_symmetric_and_ends_at_its_ends() -> None:
    assert beta_share(0.3, 2.5, 7.0) == pytest.approx(1 - beta_share(0.7, 7.0, 2.5), rel=1e-12)
    assert beta_share(0.25, 1.0, 1.0) == pytest.approx(0.25, rel=1e-12)
    assert (beta_share(0.0, 2, 3), beta_share(1.0, 2, 3)) == (0.0, 1.0)
