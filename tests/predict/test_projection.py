import numpy as np
import pytest

from engine.predict.projection import Projection


def test_many_features_are_projected_and_the_first_are_kept():
    rng = np.random.default_rng(3)
    x = np.hstack([rng.normal(size=(300, 16)), rng.normal(size=(300, 5)) @ rng.normal(size=(5, 200))])
    projection = Projection.fit(x)
    z = projection(x)
    assert z.shape == (300, 16 + 64)
    np.testing.assert_allclose(z[:, :16], (x[:, :16] - x[:, :16].mean(0)) / x[:, :16].std(0))
    assert np.var(z[:, 16:], axis=0).max() == pytest.approx(1.0, rel=0.02)
    assert (np.sort(np.var(z[:, 16:], axis=0))[:-5] < 1e-6).all(), "five directions are all there are"


def test_few_features_are_standardised_and_one_that_never_varies_stays_finite():
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(Projection.fit(x)(x), [[-1.0, 0.0], [1.0, 0.0]])


def test_what_is_far_or_no_number_is_outside():
    projection = Projection.fit(np.random.default_rng(0).normal(size=(200, 3)))
    asked = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]])
    assert projection.outside(asked).tolist() == [False, True, True, True]
