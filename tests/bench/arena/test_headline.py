from dataclasses import replace

import numpy as np
import pytest

from bench.arena.compare import Arena, Line
from bench.arena.headline import headline
from bench.arena.noisy_verify import Regret
from bench.arena.scores import Estimate, Score
from bench.calibration.grid import Grid
from bench.calibration.replay import Outcome
from bench.testbed.optimal_stop import Checker

NOTHING = Outcome(np.zeros(2, int), np.zeros(2), np.zeros(2))
SETTING = ("toy", "none", "a curve", "test")
GRID = Grid(np.array([0, 1]), np.array(["verify", "verify"]), np.ones((2, 3)), np.ones((2, 3)))


def score(**parts: Estimate) -> Score:
    one = Estimate(0.5, 0.4, 0.6)
    found = dict.fromkeys(("saved", "gained", "at_equal_joules", "at_equal_accuracy", "closed"), one)
    return Score(accuracy=0.9, energy_j=0.1, **{**found, **parts})


GOOD = score(gained=Estimate(0.001, -0.004, 0.006), closed=Estimate(0.7, 0.6, 0.8))


def line(name: str, found: Score, probes: float | None = 0.01) -> Line:
    return Line(name, NOTHING, found, 2, 10.0, 0.1, probes, 0.2)


def arena(ours: Line, **changes: object) -> Arena:
    lines = (line("full", score()), line("tokens=8", score()), ours, line("eat", score()))
    some = Estimate(0.1, 0.05, 0.15)
    made = Arena("all", GRID, 3.0, lines, some, some, some, some, (1.01, 1.0), None)
    return replace(made, **changes)


def test_what_is_asked_holds_where_it_does():
    told = headline([arena(line("marginal-value", GOOD))], SETTING)
    assert "MISSED" not in told and told.count("holds") == 9
    assert "toy (weights none), 2 questions of the test split, at 3 accuracy points per joule" in told
    assert "| tokens=8 |" in told and "| eat |" in told, "whatever played beside ours"


@pytest.mark.parametrize(
    ("ours", "changes", "missed"),
    [
        (replace(GOOD, saved=Estimate(0.39, 0.38, 0.41)), {}, "joules saved"),
        (replace(GOOD, gained=Estimate(0.0, -0.011, 0.01)), {}, "gained on full thinking"),
        (replace(GOOD, at_equal_joules=Estimate(0.01, 0.0, 0.02)), {}, "step budgets, at equal joules"),
        (GOOD, {"over_tokens": Estimate(0.01, -0.01, 0.02)}, "token budgets"),
        (GOOD, {"permuted_within": Estimate(0.1, -0.01, 0.2)}, "within each category"),
        (replace(GOOD, closed=Estimate(0.59, 0.5, 0.7)), {}, "gap to first stably correct"),
        (GOOD, {"permuted": Estimate(0.1, -0.01, 0.2)}, "stops shuffled"),
        (GOOD, {"replay": (0.96, 1.0)}, "replay foretells"),
    ],
)
def test_each_thing_asked_can_be_missed(ours, changes, missed):
    told = headline([arena(line("marginal-value", ours), **changes)], SETTING)
    [row] = [row for row in told.splitlines() if "MISSED" in row]
    assert missed in row


def test_probes_and_regret_have_their_ceilings():
    regret = Regret(Checker(0.5, 0.8, 0.02, 0.0), optimum=0.8, own=0.7)
    by_category = replace(arena(line("marginal-value", GOOD)), category="verify", verify=regret)
    told = headline([arena(line("marginal-value", GOOD, probes=0.06)), by_category], SETTING)
    missed = [row.split(" | ")[0] for row in told.splitlines() if "MISSED" in row]
    assert missed[0] == "| joules in probes" and missed[1].startswith("| verify: regret") and len(missed) == 2
    assert "12.5%" in told and "| verify | 90.0%, 0.1 J |" in told


def test_what_cannot_be_judged_is_said():
    unknown = {"replay": None, "over_tokens": None, "permuted_within": None}
    told = headline([arena(line("marginal-value", GOOD), **unknown)], SETTING)
    assert told.count("not judged") == 3 and "MISSED" not in told


def test_without_the_rule_nothing_is_judged():
    told = headline([arena(line("tail", GOOD))], SETTING)
    assert "the rule did not play" in told and "holds" not in told
