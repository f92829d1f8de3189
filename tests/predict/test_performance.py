import sys

import numpy as np
import pytest

from engine.predict import performance
from engine.predict.chances import ece, log_loss, logit
from engine.predict.performance import Performance, _between
from engine.predict.scorers import Both, Neighbours
from tests.router.planted import plant

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return plant(rng, 1500), plant(rng, 4000)


@pytest.mark.parametrize("kind", ["both", "logistic", "knn"])
def test_probabilities_are_calibrated_and_tell_easy_from_hard(data, kind):
    train, test = data
    p = Performance.fit(train.table.features, train.table.correct, kind=kind).predict(test.table.features).p
    right = test.table.correct
    base = np.tile(train.table.correct.mean(0), (len(p), 1))
    for arm in range(3):
        assert ece(p[:, arm], right[:, arm]) < 0.05
    assert log_loss(p, right) < log_loss(base, right) - 0.02
    assert log_loss(test.p, right) - 0.01 < log_loss(p, right), "no better than the truth"


def bends(found):
    """Of each arm, how far its calibration is from the nearest curve of Platt's, a line of log-odds."""
    pairs = zip(logit(found.grid), logit(found.p), strict=True)
    return [float(np.polyfit(x, y, 1, full=True)[1][0]) for x, y in pairs]


def test_platt_below_a_thousand_and_half_of_it_isotonic_from_there(data):
    table = data[0].table
    few = Performance.fit(table.features[:300], table.correct[:300])
    many = Performance.fit(table.features[:1200], table.correct[:1200])
    assert max(bends(few)) < 1e-6, "a sigmoid has no steps"
    assert min(bends(many)) > 1e-3, "an isotonic map has"
    assert (np.diff(many.p, axis=1) > 0).all(), "no two scores are taken for one"


def test_the_estimate_of_both_is_between_those_of_each(data):
    table = data[0].table
    z = Performance.fit(table.features[:300], table.correct[:300]).projection(table.features[:300])
    found = Both.fit(z, table.correct[:300], 1.0)
    one, other = found.logistic(z), found.near(z)
    both = found(z)
    assert (both >= np.minimum(one, other) - 1e-9).all() and (both <= np.maximum(one, other) + 1e-9).all()
    assert found.near.count == 10.0


def test_intervals_hold_the_share_that_is_right_among_such_scores(data):
    train, test = data
    found = Performance.fit(train.table.features, train.table.correct).predict(test.table.features)
    assert ((found.low <= found.p) & (found.p <= found.high)).all()
    inside = []
    for arm in range(3):
        order = np.argsort(found.p[:, arm])
        for part in np.array_split(order, 20):
            truth = test.p[part, arm].mean()
            inside.append(found.low[part, arm].mean() <= truth <= found.high[part, arm].mean())
    assert np.mean(inside) >= 0.9


def test_unknown_answers_teach_nothing_and_do_no_harm(data):
    table = data[0].table
    correct = table.correct[:400].copy()
    correct[::2, 0] = np.nan
    found = Performance.fit(table.features[:400], correct)
    only = Performance.fit(table.features[:400][1::2], correct[1::2, :1])
    assert np.abs(found.predict(table.features).p[:, 0] - only.predict(table.features).p[:, 0]).mean() < 0.1


@pytest.mark.parametrize("kind", ["both", "logistic", "knn"])
def test_an_arm_that_is_always_right_is_nearly_certain_and_never_quite(data, kind):
    table = data[0].table
    correct = table.correct[:200].copy()
    correct[:, 1] = 1.0
    p = Performance.fit(table.features[:200], correct, kind=kind).predict(table.features[:200]).p[:, 1]
    assert (p > 0.9).all() and (p < 1.0).all()


def test_what_is_unlike_the_training_questions_is_outside(data):
    train, test = data
    found = Performance.fit(train.table.features[:300], train.table.correct[:300])
    assert found.projection.outside(test.table.features).mean() < 0.01
    far = test.table.features[:3].copy()
    far[0], far[1, 2], far[2, 0] = 30.0, np.nan, np.inf
    assert found.projection.outside(far).all()


def test_the_same_seed_gives_the_same_estimator(data):
    table = data[0].table
    a, b = (Performance.fit(table.features[:60], table.correct[:60], seed=4) for _ in range(2))
    np.testing.assert_array_equal(a.p, b.p)


def test_too_few_questions_are_refused(data):
    table = data[0].table
    with pytest.raises(ValueError, match="too few"):
        Performance.fit(table.features[:5], table.correct[:5])
    with pytest.raises(ValueError, match="too few"):
        Performance.fit(table.features, np.full_like(table.correct, np.nan))


def test_predicting_needs_no_scikit_learn(data, monkeypatch):
    table = data[0].table
    found = Performance.fit(table.features[:120], table.correct[:120])
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert found.predict(table.features).p.shape == (1500, 3)
    with pytest.raises(ImportError):
        Performance.fit(table.features[:120], table.correct[:120])


def test_equal_texts_lie_in_one_fold(monkeypatch):
    texts = np.repeat(np.arange(30), 4)
    features = np.stack([texts, np.random.default_rng(0).normal(size=120)], axis=1)
    correct = np.random.default_rng(1).integers(0, 2, (120, 1)).astype(float)
    apart: list[bool] = []

    def probe(z, labels, strength):
        def score(asked):
            apart.append(not set(asked[:, 0]) & set(z[:, 0]))
            return np.full((len(asked), 1), 0.5)

        return score

    monkeypatch.setitem(performance.SCORERS, "probe", (probe, (1.0,)))
    Performance.fit(features, correct, kind="probe", texts=texts)
    assert apart == [True] * performance.FOLDS
    apart.clear()
    Performance.fit(features, correct, kind="probe")
    assert not all(apart), "torn apart where nobody says which are equal"


@pytest.mark.parametrize("seed", range(6))
def test_all_arms_are_mapped_at_once_as_numpy_maps_one(seed):
    rng = np.random.default_rng(seed)
    grid = np.sort(rng.random((5, 64)).round(1 + seed), axis=1)  # with few digits many points are equal
    grid[0] = grid[0, 0]  # an arm whose scores were all alike
    values = [rng.random((5, 64)) for _ in range(3)]
    scores = rng.uniform(-0.2, 1.2, (40, 5))
    scores[::3] = grid[:, seed]
    scores[1] = np.nan
    for found, of_arms in zip(_between(scores, grid, values), values, strict=True):
        expected = np.stack([np.interp(*arm) for arm in zip(scores.T, grid, of_arms, strict=True)], axis=1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_neighbours_are_the_nearest_by_distance_and_count_what_is_known():
    rng = np.random.default_rng(0)
    known, z, labels = rng.normal(size=(50, 4)), rng.normal(size=(7, 4)), rng.integers(0, 2, (50, 3)) * 1.0
    labels[rng.random(labels.shape) < 0.3] = np.nan
    found = Neighbours(known, labels, 9.0)(z)
    for query, told in zip(z, found, strict=True):
        near = labels[np.argsort(np.linalg.norm(known - query, axis=1))[:9]]
        by_hand = (np.nansum(near, 0) + 2 * np.nanmean(labels, 0)) / ((~np.isnan(near)).sum(0) + 2)
        np.testing.assert_allclose(told, by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [20, 60])
def test_few_answers_make_nobody_certain(count):
    """Laplace's rule: of `count` that were all right, the next one is in (count + 1) / (count + 2)."""
    x = np.random.default_rng(count).normal(size=(count, 3))
    p = Performance.fit(x, np.stack([np.ones(count), np.zeros(count)], axis=1)).predict(x).p
    np.testing.assert_allclose(
        p, np.tile([(count + 1) / (count + 2), 1 / (count + 2)], (count, 1)), atol=1e-3
    )
