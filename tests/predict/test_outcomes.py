import json
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import TokenjouleError
from engine.predict.outcomes import SCHEMA, Outcome, Table, read_outcomes, write_outcomes

ONE = Outcome("q1", "1+1?", "sums", "small", 1, "2", 5, 3, 0.25, "measured", 0.1, 0.9, (1.0, 2.0))


def line(**changes) -> str:
    from dataclasses import asdict

    return json.dumps({"schema": SCHEMA, **asdict(ONE), **changes})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "o.jsonl"
    given = [ONE, replace(ONE, arm="large", correct=None, energy_j=None, features=(1.0, 2.0), answer=None)]
    write_outcomes(path, given)
    assert read_outcomes(path) == given


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"correct": 2}, "correct"),
        ({"correct": True}, "correct"),
        ({"energy_j": -1.0}, "energy_j"),
        ({"energy_j": "much"}, "energy_j"),
        ({"new_tokens": 1.5}, "new_tokens"),
        ({"features": [1.0, "a"]}, r"features\[1\]"),
        ({"joules": 1.0}, "joules"),
        ({"schema": "other"}, "schema"),
        ({"arm": None}, "arm"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path, changes, said):
    path = tmp_path / "o.jsonl"
    path.write_text(line() + "\n" + line(question="q2", **changes) + "\n")
    with pytest.raises(TokenjouleError, match=rf"o\.jsonl, line 2: .*{said}"):
        read_outcomes(path)


@pytest.mark.parametrize("content", ["", "\n\n", "[1]\n", "{\n", line() + "\n" + line()])
def test_a_file_of_no_outcomes_is_one_line(tmp_path, content):
    path = tmp_path / "o.jsonl"
    path.write_text(content)
    with pytest.raises(TokenjouleError) as error:
        read_outcomes(path)
    assert "\n" not in str(error.value)


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
