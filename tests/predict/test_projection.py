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


def clusters(rng, which, count: int = 200):
    """Questions of kinds that lie in a ring: no kind is further from the mean of all than any other."""
    kind = rng.choice(which, count)
    middle = np.stack([np.cos(kind * np.pi / 3), np.sin(kind * np.pi / 3)], axis=1)
    return middle + 0.05 * rng.normal(size=(count, 2))


def test_a_kind_of_question_between_those_that_are_known_is_outside_by_the_nearest_of_them():
    rng = np.random.default_rng(0)
    known = clusters(rng, [0, 1, 2, 4, 5])
    plain = Projection.fit(known)
    guarded = plain.guarded(known)
    other = clusters(rng, [3])
    assert not plain.outside(other).any() and guarded.outside(other).all()
    assert guarded.outside(clusters(rng, [0, 1, 2, 4, 5], 2000)).mean() < 0.02


@pytest.mark.parametrize("count", [12, 300, 2500])
def test_questions_like_those_that_are_known_are_inside_however_many_there_are(count):
    rng = np.random.default_rng(count)
    guarded = Projection.fit(x := rng.normal(size=(count, 4))).guarded(x)
    assert guarded.known.shape == (min(count, 1000), 4)
    assert guarded.outside(rng.normal(size=(2000, 4))).mean() < (0.1 if count == 12 else 0.02)


def test_questions_that_were_all_alike_know_their_like_and_nothing_else():
    x = np.tile([1.0, 2.0], (30, 1))
    guarded = Projection.fit(x).guarded(x)
    assert guarded.outside(np.array([[1.0, 2.0], [1.1, 2.0]])).tolist() == [False, True]


def test_what_is_far_or_no_number_is_outside_of_the_guarded_too():
    guarded = Projection.fit(x := np.random.default_rng(0).normal(size=(200, 3))).guarded(x)
    asked = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]])
    with np.errstate(invalid="ignore"):
        assert guarded.outside(asked).tolist() == [False, True, True, True]
