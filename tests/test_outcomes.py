import json
from dataclasses import replace

import pytest

from engine.errors import TokenjouleError
from engine.outcomes import SCHEMA, Outcome, read_outcomes, write_outcomes

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
