"""What is told of a request before it begins, by a predictor whose seconds are simple."""

from collections.abc import Sequence

import pytest

from engine.energy.forecast import Forecast
from engine.energy.predict import Predictor
from engine.errors import TokenjouleError
from kernels.cost import RowWork


class Simple(Predictor):
    """1 s a prompt token; a step takes 1 s, and 0.5 s for each row."""

    name = "simple"

    def model_seconds(self, rows: Sequence[RowWork]) -> float:
        return 1.0 + 0.5 * len(rows)

    def prefill_seconds(self, tokens: int) -> float:
        return float(tokens)


FORECAST = Forecast(Simple(), 2.0, "counter")


@pytest.mark.parametrize(
    ("budget_j", "rows"),
    # 10 prompt tokens take 20 J, 5 steps of n rows 10 + 5 n J
    [(1e9, 16), (110, 16), (109.9, 15), (45, 3), (44.9, 2), (36, 1), (21, 1), (1, 1)],
)
def test_no_more_rows_answer_than_a_budget_holds_and_one_does_always(budget_j: float, rows: int) -> None:
    assert FORECAST.rows_held(budget_j, [10], [10] * 16, 6) == rows


def test_rows_that_prefill_by_themselves_leave_less_for_answers() -> None:
    assert FORECAST.rows_held(110, [10] * 4, [10] * 4, 6) == 4
    assert FORECAST.rows_held(109, [10] * 4, [10] * 4, 6) == 3


def test_a_budget_below_its_prompts_is_refused_and_needs_a_power() -> None:
    FORECAST.require(20, [10])
    with pytest.raises(TokenjouleError, match="less than the predicted minimum of 20 J"):
        FORECAST.require(19.9, [10])
    with pytest.raises(TokenjouleError, match="counter has told none"):
        Forecast(Simple(), None, "counter").require(20, [10])
