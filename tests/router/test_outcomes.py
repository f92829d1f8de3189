from dataclasses import replace

import numpy as np
import pytest

from engine.errors import TokenjouleError
from router.outcomes import Table
from tests.test_outcomes import ONE


def test_a_table_has_nan_where_nothing_is_known():
    rows = [ONE, replace(ONE, arm="large", energy_j=None), replace(ONE, question="q2", correct=0)]
    table = Table.of(rows)
    assert table.arms == ("small", "large") and table.questions.tolist() == ["q1", "q2"]
    np.testing.assert_array_equal(table.correct, [[1, 1], [0, np.nan]])
    np.testing.assert_array_equal(table.energy_j, [[0.25, np.nan], [0.25, np.nan]])
    assert table.answers[1, 1] is None and table.features.shape == (2, 2)
    taken = table.take([1])
    assert taken.questions.tolist() == ["q2"] and taken.correct.shape == (1, 2)


def test_rows_of_one_question_that_differ_are_refused():
    with pytest.raises(TokenjouleError, match="differ"):
        Table.of([ONE, replace(ONE, arm="large", query="2+2?")])
    with pytest.raises(TokenjouleError, match="how many features"):
        Table.of([ONE, replace(ONE, question="q2", features=(1.0,))])


def test_one_question_without_features_leaves_all_without():
    assert Table.of([ONE, replace(ONE, question="q2", features=None)]).features is None
