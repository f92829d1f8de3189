"""Pressures played on questions whose every number is planted."""

from dataclasses import replace

import numpy as np
import pytest

from bench.routing.pressures import GRID, HOUR, QUEUE, World, pressed, rising
from bench.routing.split import Prepared, prepared
from engine.errors import TokenjouleError
from engine.predict.outcomes import Table
from router.policy import Choice, Conditions, Estimate
from tests.bench.routing.planted_testbed import ARMS, outcomes

QUESTIONS = 120


@pytest.fixture
def world() -> World:
    """The router believes of each arm what is true of it on average, with a bound that its joules keep."""
    data: Prepared = prepared(Table.of(outcomes("test", QUESTIONS, 3)[0]))
    right, spent = data.table.correct.mean(0), data.table.energy_j
    budgets = (0, 16, 64)
    estimates = [
        [
            Estimate(
                arm, f"s/{'cot' if budget else 'direct'}", budget, p, p, p, joules, joules, 1.2 * joules, None
            )
            for arm, budget, p, joules in zip(ARMS, budgets, right.tolist(), row.tolist(), strict=True)
        ]
        for row in spent
    ]
    return World(replace(data, read_j=np.full(QUESTIONS, 0.1)), estimates, "s/cot-64", 0.0)


def series(folder, readings) -> object:
    path = folder / "grid.csv"
    rows = [f"2026-03-{1 + n // 24:02d}T{n % 24:02d}:00:00+00:00,{grams}" for n, grams in enumerate(readings)]
    path.write_text("\n".join(["time,average_g_per_kwh", *rows]) + "\n")
    return path


def test_budgets_tighten_step_by_step_and_limits_hold(world, tmp_path):
    found = pressed(world, series(tmp_path, (100, 90, 120, 200, 400, 800)))
    for name in (QUEUE, HOUR, GRID):
        these = [one for one in found if one.name == name]
        assert len(these) > 4
        for attribute in ("most_tokens", "tokens"):
            values = [getattr(one, attribute) for one in these]
            assert values == sorted(values, reverse=True) and values[-1] < values[0]
        pressures = [one.pressure for one in these]
        assert pressures == sorted(pressures) and all(one.beyond == 0 for one in these)
        assert these[-1].accuracy < these[0].accuracy and these[-1].lost.value > 5
        assert all(one.lost.low <= one.lost.value <= one.lost.high for one in these)
    hour = [one for one in found if one.name == HOUR]
    rest = next(one for one in found if one.name == QUEUE)
    assert rest.lost.value == 0 and rest.most_tokens == 64
    assert sum(one.energy_j for one in hour) / len(hour) <= rest.energy_j / 2 + 1e-9


def test_an_answer_beyond_its_joules_is_cut_there_and_counts_as_wrong(world):
    data = world.data
    least = [replace(one, energy_q90_j=0.01) for one in world.estimates[0]]
    here = replace(world, estimates=[least] * QUESTIONS)
    right = int(np.flatnonzero(data.table.correct[:, 2])[0])
    within = here.answer(right, here.limits(joules=100.0), Conditions())
    assert (within.correct, within.beyond) == (1.0, False)
    assert within.energy_j == pytest.approx(data.table.energy_j[right, 2] + 0.1)
    cut = here.answer(right, here.limits(joules=5.0), Conditions())
    assert (cut.correct, cut.energy_j, cut.beyond) == (0.0, 5.0, True)
    strict = world.answer(right, replace(world.limits(joules=0.2), strict=True), Conditions())
    assert (strict.correct, strict.energy_j, strict.beyond) == (0.0, 0.1, False)


def test_grams_beyond_their_limit_are_counted(world):
    conditions = Conditions(intensity_g_per_kwh=300.0)
    grams = conditions.grams(float(world.data.table.energy_j[0, 2]) + 0.05)
    trusting = replace(
        world, estimates=[[replace(o, energy_q90_j=0.0) for o in world.estimates[0]]] * QUESTIONS
    )
    assert trusting.answer(0, world.limits(grams=grams), conditions).beyond
    assert not trusting.answer(0, world.limits(grams=2 * grams), conditions).beyond


def test_an_arm_that_is_cut_is_played_as_the_one_that_thinks_no_longer(world):
    for tokens, arm in ((64, "s/cot-64"), (63, "s/cot-16"), (16, "s/cot-16")):
        assert world.recorded(Choice("s/cot-64", tokens, "")) == arm
    assert world.recorded(Choice("s/direct", 0, "")) == "s/direct"
    with pytest.raises(TokenjouleError, match="no arm of s/cot thinks within 15 tokens"):
        world.recorded(Choice("s/cot-16", 15, ""))


def test_of_a_recorded_series_the_steepest_climb_is_played(tmp_path):
    found = rising(series(tmp_path, (500, 520, 100, 90, 120, 110, 300, 280, 560, 200)))
    assert found.g_per_kwh == (90, 120, 300, 560) and found.usual_g_per_kwh == 240
    many = rising(series(tmp_path, range(1, 40)))
    assert len(many.g_per_kwh) == 8 and many.g_per_kwh[0] == 1 and many.g_per_kwh[-1] == 39


@pytest.mark.parametrize(
    "text",
    [
        "time,grams\n2026-03-01T00:00:00+00:00,1\n",
        "time,average_g_per_kwh,marginal_g_per_kwh\n2026-03-01T00:00:00+00:00,1,2\n",
        "time,average_g_per_kwh\n2026-03-01T00:00:00+00:00,1\n",
        "time,average_g_per_kwh\n2026-03-01T00:00:00+00:00,1\n2026-03-01T01:00:00+00:00,nan\n",
        "time,average_g_per_kwh\nnoon,1\n2026-03-01T01:00:00+00:00,2\n",
        "",
    ],
)
def test_what_is_no_series_is_refused(tmp_path, text):
    path = tmp_path / "grid.csv"
    path.write_text(text)
    with pytest.raises(TokenjouleError, match=r"grid\.csv"):
        rising(path)


def test_tokens_allowed_are_those_that_the_policy_left(world, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.routing.pressures.tightened", lambda estimates, pressure: (estimates, {}))
    found = [one for one in pressed(world, series(tmp_path, (100, 200, 400))) if one.name == QUEUE]
    assert {one.most_tokens for one in found} == {64}, "a policy that tightens nothing is found out"
