import numpy as np
import pytest

from engine.predict.chances import log_loss
from engine.predict.evidence import Evidence
from tests.router.planted import plant

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")


def hard(seed: int, count: int = 3000):
    """(table, p): what is right hangs on how hard a question is, which `p` does not know; the first arm's
    confidence tells it.
    """
    rng = np.random.default_rng(seed)
    planted = plant(rng, count)
    table, easy = planted.table, rng.random(count) < 0.5
    p = np.full((count, 3), [0.5, 0.6, 0.7])
    table.correct[:] = rng.random(p.shape) < np.where(easy[:, None], p + 0.25, p - 0.25)
    table.confidence[:] = np.where(easy, 0.9, 0.2)[:, None]
    return table, p, easy


def test_a_weak_answer_makes_every_arm_less_likely_and_a_sure_one_more():
    table, p, _ = hard(0)
    told = Evidence.fit(table, p)
    test, before, easy = hard(1)
    after = told(0, before, test.confidence[:, 0])
    for arm, sure in enumerate((0.75, 0.85, 0.95)):
        assert after[easy, arm].mean() == pytest.approx(sure, abs=0.03)
        assert after[~easy, arm].mean() == pytest.approx(sure - 0.5, abs=0.03)
    assert log_loss(after, test.correct) < log_loss(before, test.correct) - 0.1


def test_what_is_not_known_leaves_what_was_believed():
    table, p, _ = hard(2, 400)
    table.confidence[:, 1] = np.nan
    table.confidence[49:, 2] = np.nan  # one short of what tells anything
    told = Evidence.fit(table, p)
    before, sure = p[:5], np.full(5, 0.9)
    for silent in (1, 2):
        np.testing.assert_array_equal(told(silent, before, sure), before)
    np.testing.assert_array_equal(told(0, before, np.full(5, np.nan)), before)
    assert (told(0, before, sure) > before).all()
    table.confidence[:] = np.nan
    assert Evidence.fit(table, p) is None


def test_arms_that_are_always_right_and_unknown_answers_are_no_obstacle():
    table, p, _ = hard(3, 600)
    table.correct[:, 2] = 1.0
    table.correct[:300, 1] = np.nan
    after = Evidence.fit(table, p)(0, p, table.confidence[:, 0])
    assert np.isfinite(after).all() and (after[:, 2] > 0.97).all()
