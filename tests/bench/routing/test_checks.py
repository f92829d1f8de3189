"""Checks of the estimators where the truth is planted."""

import numpy as np
import pytest

from bench.routing.checks import arm_checks, certified
from bench.routing.estimates import Costs, costs, probabilities
from bench.routing.record import checked
from bench.routing.split import crossed
from tests.bench.routing.planted import data

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")


def test_shares_of_each_arm_are_counted_by_seed():
    planted = data(120)
    right, joules = planted.table.correct, planted.table.energy_j
    p = np.stack([right, np.full_like(right, 0.5)])  # certain and always right; then always even
    found = arm_checks(planted, p, Costs(np.stack([joules] * 2), np.stack([joules, 0 * joules])))
    assert [check.arm for check in found] == list(planted.table.arms)
    for a, check in enumerate(found):
        assert check.covered == (1, 0)
        assert check.brier == (0, 0.25) and check.auroc == (1, 0.5)
        # Bins of twelve: how far shares of right answers lie from one half, on average.
        assert check.ece[0] == 0 and check.ece[1] >= abs(right[:, a].mean() - 0.5) - 1e-9


def test_how_well_right_answers_are_told_from_wrong_ones_is_not_defined_without_both():
    planted = data(120)
    planted.table.correct[:, 0] = 1
    planted.table.correct[:, 1] = 0
    planted.table.correct[:, 2] = np.arange(120) % 4 == 0
    p = np.where(np.arange(120) % 2 == 0, 0.75, 0.25)  # of those right all, of the wrong ones a third
    joules = np.ones((1, 120, 3))
    always, never, some = arm_checks(planted, np.stack([p] * 3, 1)[None], Costs(joules, joules))
    assert always.auroc is None and never.auroc is None
    assert some.auroc == pytest.approx((1 - 1 / 3 / 2,))
    assert [check.brier for check in (always, never, some)] == [
        pytest.approx((found,))
        for found in (
            (0.25**2 + 0.75**2) / 2,
            (0.75**2 + 0.25**2) / 2,
            (0.25**2 + 0.75**2 + 2 * 0.25**2) / 4,
        )
    ]
    told = checked(always)["auroc"]
    assert told.samples == () and told.reason == "the arm is always right, or never"


def test_estimates_of_questions_they_were_not_fitted_to_are_calibrated_and_bounds_hold():
    planted = data(400)
    split = crossed(planted.table.queries, 3)
    p, spent = probabilities("both", planted, (0,), split), costs(planted, (0,), split)
    for check in arm_checks(planted, p, spent):
        assert check.ece[0] < 0.12 and 0.82 < check.covered[0] < 0.97
    # Planted joules grow with length, which the text tells.
    assert np.corrcoef(spent.expected[0, :, 2], planted.table.energy_j[:, 2])[0, 1] > 0.9


def test_certified_accuracy_is_rarely_missed_and_an_impossible_promise_is_not_made(monkeypatch):
    planted = data(400, distinct=True)
    found = certified(planted, (0,), 20)
    assert found.resplits == 20 and 0 < found.given <= 1
    assert found.violated.low is not None and found.violated.low <= found.delta
    monkeypatch.setattr("bench.routing.checks.BELOW", -0.2)
    never = certified(planted, (0,), 3)
    assert never.given == 0 and never.violated.value is None and never.saved is None


def test_a_text_that_is_asked_again_certifies_nothing_more(monkeypatch):
    """The same questions ten times over are no ten times as many draws."""
    seen: list[int] = []

    def threshold(p, *_, **__):
        seen.append(len(p))

    monkeypatch.setattr("bench.routing.checks.certified_threshold", threshold)
    planted = data(200)
    certified(planted, (0,), 3)
    texts = len(set(planted.table.queries))
    assert len(seen) == 3 and max(seen) <= texts // 4 + 1 < 50
