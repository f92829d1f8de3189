import pytest

from engine.energy.hourly import HourlyBudget
from engine.errors import UsageError


def test_what_was_spent_comes_back_an_hour_later():
    now = [0.0]
    budget = HourlyBudget(10.0, clock=lambda: now[0])
    budget.spend(4.0)
    now[0] = 1800.0
    budget.spend(5.0)
    assert budget.left_j() == 1.0
    now[0] = 3599.0
    assert budget.left_j() == 1.0
    now[0] = 3600.0
    assert budget.left_j() == 5.0
    now[0] = 5400.0
    assert budget.left_j() == 10.0


def test_more_than_all_of_it_leaves_nothing():
    budget = HourlyBudget(1.0, clock=lambda: 0.0)
    budget.spend(3.0)
    assert budget.left_j() == 0.0


@pytest.mark.parametrize("joules", [0.0, -1.0, float("nan"), float("inf")])
def test_no_joules_at_all_are_refused(joules):
    with pytest.raises(UsageError, match="above 0"):
        HourlyBudget(joules)
