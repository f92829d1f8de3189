from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from engine.errors import TokenjouleError
from engine.strict import made, read_lines, read_toml


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
        ({"other": 1}, "missing or unknown: other; there are name, inner, pair, many, perhaps, table"),
    ],
)
def test_anything_else_is_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        made(Outer, {**GOOD, **changes})


def test_a_field_without_a_default_is_needed():
    with pytest.raises(ValueError, match="missing or unknown: name"):
        made(Outer, {"inner": {"number": 1}, "pair": [1, 2]})


@dataclass(frozen=True)
class Near:
    path: str
    size: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size: must be at least 0")


@dataclass(frozen=True)
class Far:
    address: str
    port: int
    size: int = 0


@dataclass(frozen=True)
class Places:
    places: Mapping[str, Near | Far]
    rows: tuple[Near, ...] = ()


def test_of_several_dataclasses_it_is_the_one_whose_fields_are_given():
    found = made(Places, {"places": {"a": {"path": "x", "size": 1}, "b": {"address": "y", "port": 2}}})
    assert found.places == {"a": Near("x", 1), "b": Far("y", 2)}
    with pytest.raises(
        ValueError, match=r"missing or unknown: places\.b\.path; there are address, port, size$"
    ):
        made(Places, {"places": {"b": {"address": "y", "port": 1, "path": "z"}}})


def test_what_a_dataclass_refuses_is_said_with_its_place():
    with pytest.raises(ValueError, match=r"^rows\[1\]: size: must be at least 0$"):
        made(Places, {"places": {}, "rows": [{"path": "a"}, {"path": "b", "size": -1}]})


def test_an_array_is_taken_as_it_is_and_a_list_is_none():
    @dataclass(frozen=True)
    class Held:
        values: np.ndarray[tuple[int], np.dtype[np.float64]]

    array = np.ones(2)
    assert made(Held, {"values": array}).values is array
    with pytest.raises(ValueError, match="values must be a ndarray"):
        made(Held, {"values": [1.0]})


def test_lines_are_made_and_a_wrong_one_is_named(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text('\ufeff{"path": "a"}\n\n{"path": "b\u2028", "size": 2}\n')
    assert read_lines(path, lambda raw: made(Near, raw)) == [Near("a"), Near("b\u2028", 2)]
    for text, said in (
        ("{}", "line 1: missing or unknown: path"),
        ('{"path": "a"}\n{', "line 2: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ("", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(TokenjouleError, match=rf"l\.jsonl.*{said}"):
            read_lines(path, lambda raw: made(Near, raw))
    path.write_bytes(b"{}\xff")
    with pytest.raises(TokenjouleError, match="byte 2"):
        read_lines(path, lambda raw: raw)


def test_files_that_a_toml_file_names_lie_beside_it(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('path = "a"\nsize = 1\n[[rows]]\npath = "/b"\nname = "c"\n[d.e]\npath = 3\n')
    found = read_toml(path, dict, files=("path", "size"))
    assert found == {
        "path": str(tmp_path / "a"),
        "size": 1,
        "rows": [{"path": "/b", "name": "c"}],
        "d": {"e": {"path": 3}},
    }
    assert read_toml(path, dict)["path"] == "a"


def test_what_is_wrong_with_a_toml_file_is_said_with_its_line(tmp_path):
    path = tmp_path / "p.toml"
    good = '[places.a]\npath = "x"\nsize = 1\n[[rows]]\npath = "y"\n[[rows]]\npath = "z"\nsize = 2\n'
    path.write_text(good)
    assert read_toml(path, lambda raw: made(Places, raw)).rows == (Near("y"), Near("z", 2))
    for old, new, line in (
        ("size = 1", "size = -1", 3),
        ("size = 2", "size = -2", 8),
        ("size = 2", "by = 2", 8),
        ('[[rows]]\npath = "y"\n[[rows]]', "[rows]", 4),
    ):
        path.write_text(good.replace(old, new))
        with pytest.raises(TokenjouleError, match=rf"p\.toml, line {line}: "):
            read_toml(path, lambda raw: made(Places, raw))
    path.write_text("a = = 1")
    with pytest.raises(TokenjouleError, match="line 1"):
        read_toml(path, lambda raw: raw)
