import numpy as np

from bench.calibration.bootstrap import (
    best_budget,
    budget_intervals,
    cheapest_within,
    folds,
    paired_interval,
    resamples,
)
from bench.calibration.grid import Grid


def grid(accuracies, runs: int, seed: int, *, each: int = 1) -> Grid:
    """Budgets of 1, 2, … J with these accuracies; `each`: runs of a question, all alike."""
    rng = np.random.default_rng(seed)
    questions = runs // each
    right = (rng.random((questions, 1)) < np.array(accuracies)).astype(float)
    correct = np.repeat(right, each, axis=0)
    energy_j = np.tile(np.arange(1.0, len(accuracies) + 1), (runs, 1))
    return Grid(energy_j, correct, np.repeat(np.arange(questions), each), np.array(["a"] * runs))


def test_a_question_is_drawn_with_all_its_runs():
    clusters = np.array([0, 0, 0, 7, 7, 3])
    for rows in resamples(clusters, draws=50, seed=0):
        counts = np.bincount(clusters[rows], minlength=8)
        assert counts[0] % 3 == 0 and counts[7] % 2 == 0
        assert counts[0] // 3 + counts[7] // 2 + counts[3] == 3


def test_runs_of_the_same_question_do_not_narrow_an_interval():
    alone, repeated = grid([0.5], 100, 0), grid([0.5], 400, 0, each=4)
    spread = [np.ptp(paired_interval(g.correct[:, 0], g.clusters)) for g in (alone, repeated)]
    assert spread[1] > 0.9 * spread[0]
    pretended = paired_interval(repeated.correct[:, 0], np.arange(400))
    assert np.ptp(pretended) < 0.6 * spread[0]


def test_paired_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        values = (rng.random(150) < 0.3).astype(float)
        low, high = paired_interval(values, np.arange(150), draws=300, seed=seed)
        held += low <= 0.3 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_the_best_budget_and_its_interval_follow_the_price():
    rising = grid([0.1, 0.5, 0.7, 0.75], 2000, 2)
    assert best_budget(rising, 0.0) == 3
    assert best_budget(rising, 0.1) == 2
    assert best_budget(rising, 10.0) == 0
    ends, regret, (low, high) = budget_intervals(rising, 0.1, draws=200)
    assert ends == (3.0, 3.0)
    assert 0 <= low <= regret <= high < 0.02


def test_regret_grows_where_few_questions_tell_little():
    few = budget_intervals(grid([0.5, 0.52, 0.55, 0.5], 30, 3), 0.0, draws=150)[1]
    many = budget_intervals(grid([0.5, 0.52, 0.55, 0.5], 1500, 3), 0.0, draws=150)[1]
    assert few > many


def test_the_price_free_choice_is_the_cheapest_that_is_surely_as_good():
    assert cheapest_within(grid([0.2, 0.9, 0.9, 0.9], 2000, 4), draws=200) == 1
    assert cheapest_within(grid([0.2, 0.85, 0.9, 0.9], 2000, 4), draws=200) == 2


def test_folds_share_out_the_questions_and_keep_their_runs_together():
    clusters = np.repeat(np.arange(10), 3)
    parts = list(folds(clusters, 5))
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(30))
    for training, held in parts:
        assert not set(clusters[training]) & set(clusters[held])
