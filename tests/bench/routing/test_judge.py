"""Verdicts on fronts that can be worked out by hand, and that differences are paired."""

import numpy as np
import pytest

from bench.experiments.bootstrap import Interval, Resampled, between
from bench.routing.judge import Verdict, judge
from bench.routing.played import THRIFTY, Kind, Played, fixed

Q = 200


def share(right: float, seed: int = 0) -> np.ndarray:
    """(Q,): so many right, in the same random order for all shares."""
    order = np.random.default_rng(seed).permutation(Q)
    return (order < right * Q).astype(float)


def rule(name: str, kind: Kind, *points: tuple[float, float]) -> Played:
    """Points of (share right, joules)."""
    right = np.stack([share(point[0]) for point in points], axis=1)
    spent = np.stack([np.full(Q, point[1]) for point in points], axis=1)
    return fixed(name, kind, [f"k{k}" for k in range(len(points))], right, spent)


def verdicts(ours: Played, *others: Played) -> dict[str, Verdict]:
    rules = [
        ours,
        *others,
        rule("random mix", Kind.FIXED, (0.5, 10.0), (0.9, 110.0)),
        rule("oracle", Kind.ORACLE, (0.95, 20.0)),
        rule("agreement", Kind.BASELINE, (0.7, 50.0)),
    ]
    return {verdict.rule.name: verdict for verdict in judge(rules, resamples=100)}


def test_figures_of_a_front_are_those_worked_out_by_hand():
    found = verdicts(rule("ours", Kind.OURS, (0.8, 30.0), (0.92, 60.0)))["ours"]
    # 89.5 % lies on the line from (30, 80 %) to (60, 92 %), at 53.75 J of 110.
    assert found.saved.value == pytest.approx(1 - 53.75 / 110)
    assert found.gap.value == pytest.approx((0.92 - 0.90) / (0.95 - 0.90))
    area = (20 * (0.5 + 0.8) / 2 + 30 * (0.8 + 0.92) / 2 + 50 * 0.92) / 100
    assert found.area.value == pytest.approx(area, abs=1e-3)
    assert found.over_mix.value == pytest.approx(100 * (area - 0.7), abs=0.1)
    agreed = (40 * (0.5 + 0.7) / 2 + 60 * (0.7 + 0.9) / 2) / 100
    assert found.over_agreement.value == pytest.approx(100 * (area - agreed), abs=0.1)
    assert found.points[1].lost.value == pytest.approx(-2)
    assert found.points[0].saved.value == pytest.approx(80 / 110)


def test_a_rule_that_adds_nothing_is_the_random_mix_exactly():
    found = verdicts(rule("ours", Kind.OURS, (0.5, 60.0)))
    ours = found["ours"]
    assert (ours.over_mix.value, ours.over_mix.low, ours.over_mix.high) == (0, 0, 0)
    assert ours.saved.value == pytest.approx(found["random mix"].saved.value)
    assert ours.gap.value == 0


def test_the_gap_in_joules_is_told_against_an_oracle_that_gives_up_as_much():
    ours = rule("ours", Kind.OURS, (0.8, 30.0), (0.92, 60.0))
    thrifty = rule(THRIFTY, Kind.ORACLE, (0.5, 5.0), (0.88, 12.0), (0.95, 20.0))
    assert verdicts(ours)["ours"].joules_gap == Interval(None)
    found = verdicts(ours, thrifty)
    # 89.5 % on the line from (12, 88 %) to (20, 95 %).
    most = 1 - (12 + 8 * 0.015 / 0.07) / 110
    assert found["ours"].joules_gap.value == pytest.approx((1 - 53.75 / 110) / most)
    assert found[THRIFTY].joules_gap == Interval(1.0, 1.0, 1.0)
    assert found["ours"].gap == verdicts(ours)["ours"].gap
    interval = found["ours"].joules_gap
    assert interval.low <= interval.value <= interval.high
    for verdict in found.values():
        assert verdict.joules_gap.value >= verdict.saved.value


def test_intervals_hold_the_value_and_paired_differences_are_tighter_than_the_parts():
    found = verdicts(rule("ours", Kind.OURS, (0.8, 30.0), (0.92, 60.0)))["ours"]
    for interval in (found.saved, found.area, found.over_mix, found.points[0].accuracy):
        assert interval.low <= interval.value <= interval.high
    wide = found.points[1].accuracy
    assert found.points[1].lost.high - found.points[1].lost.low < 100 * (wide.high - wide.low)


def test_resampled_means_are_those_of_the_index_sets():
    columns = np.random.default_rng(0).normal(size=(30, 3))
    resampled = Resampled(30, resamples=250, seed=1)
    expected = np.array([columns[chosen].mean(0) for chosen in resampled._sets])
    assert resampled.means(columns) == pytest.approx(expected)
    assert Resampled(1).means(columns[:1]).shape == (0, 3)


def test_an_interval_needs_nearly_all_resamples():
    assert between(float("nan"), np.zeros(3)) == Interval(None)
    assert between(1.0, np.array([np.nan, 1.0, 2.0])) == Interval(1.0)
    assert between(1.0, np.empty(0)) == Interval(1.0)
    whole = between(0.5, np.linspace(0, 1, 101))
    assert (whole.value, whole.low, whole.high) == pytest.approx((0.5, 0.025, 0.975))
