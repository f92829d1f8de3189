from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from engine.strict import made


@dataclass(frozen=True)
class Inner:
    number: float


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    pair: tuple[int, int]
    many: tuple[float, ...] = ()
    perhaps: int | None = None
    table: Mapping[str, Inner] = field(default_factory=dict)


GOOD = {"name": "a", "inner": {"number": 1}, "pair": [1, 2]}


def test_values_of_annotated_types_and_defaults():
    found = made(Outer, {**GOOD, "many": [1, 2.5], "table": {"x": {"number": 2}}})
    assert found == Outer("a", Inner(1.0), (1, 2), (1.0, 2.5), None, {"x": Inner(2.0)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 3}, "name must be a str"),
        ({"inner": {}}, "missing or unknown: inner.number"),
        ({"inner": {"number": True}}, "inner.number must be a float"),
        ({"pair": [1]}, "pair has 1 values, not 2"),
        ({"pair": [1, 2.0]}, r"pair\[1\] must be a int"),
        ({"many": 3}, "many is no list"),
        ({"perhaps": "x"}, "perhaps must be a int"),
        ({"table": {"x": 1}}, "table.x is no object"),
        ({"other": 1}, "missing or unknown: other"),
    ],
)
def test_anything_else_is_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        made(Outer, {**GOOD, **changes})


def test_a_field_without_a_default_is_needed():
    with pytest.raises(ValueError, match="missing or unknown: name"):
        made(Outer, {"inner": {"number": 1}, "pair": [1, 2]})
