"""The one schema: what is written is read back, and what contradicts it is refused by file and line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.record import SCHEMA, Metric, Record, Value, append, parse, read
from engine.errors import TokenjouleError
from tests.bench.records import OURS, decoded

RECORD = decoded(OURS, (0.1, 0.12, 0.11, 0.3))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    other = dataclasses.replace(RECORD, metrics={"peak_b": Metric("B", (), "the system does not tell")})
    append(path, [RECORD])
    append(path, [other])
    assert list(read([path, path])) == [RECORD, other] * 2


def test_median_quartiles_and_number_stand_in_the_file() -> None:
    metric = RECORD.to_json()["metrics"]["step_s"]
    assert metric["median"] == pytest.approx(0.115)
    assert (metric["q1"], metric["q3"]) == (pytest.approx(0.1075), pytest.approx(0.165))
    assert (metric["min"], metric["n"], len(metric["samples"])) == (0.1, 4, 4)
    assert Metric("s", (1.0,)).quartiles is None


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, [RECORD])
    with path.open("a") as file:
        file.write('{"schema": "tokenj')  # a run that was killed
    append(path, [RECORD])
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["schema"] == SCHEMA
    with pytest.raises(TokenjouleError, match=r"records\.jsonl:2: not a record"):
        list(read([path]))


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(raw: dict[str, Any]) -> None:
        place: Any = raw
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return apply


WRONG = {
    "another schema": change("schema", to="tokenjoule.bench/0"),
    "an unknown field": change("colour", to="red"),
    "an unknown field of a part": change("arm", "colour", to="red"),
    "a missing field": lambda raw: raw.pop("group"),
    "a number for a name": change("arm", "backend", to=3),
    "true for a count": change("case", "rows", to=True),
    "a median of other samples": change("metrics", "step_s", "median", to=0.05),
    "a wrong number of samples": change("metrics", "step_s", "n", to=3),
    "samples and a reason": change("metrics", "step_s", "reason", to="not run"),
    "an unknown unit": change("derived", "rate", "unit", to="furlong"),
    "a null without a reason": change("derived", "rate", "value", to=None),
    "a reason beside a value": change("derived", "rate", "reason", to="no sensor"),
    "half an interval": change("derived", "read_share", "low", to=None),
    "a null in the stamp without a reason": change("stamp", "commit", to=None),
    "a reason in the stamp without a null": change("stamp", "reasons", "dirty", to="no git"),
    "not an object": lambda raw: raw.update(case=[]),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_record_is_refused_by_file_and_line(
    spoil: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    raw = json.loads(json.dumps(RECORD.to_json()))
    assert parse(raw) == RECORD
    spoil(raw)
    path = tmp_path / "records.jsonl"
    path.write_text("\n" + json.dumps(raw) + "\n")
    with pytest.raises(TokenjouleError, match=r"records\.jsonl:2: not a record of tokenjoule\.bench/1: \w"):
        list(read([path]))


@pytest.mark.parametrize("text", ["NaN", "{", "[1]", "\udcff"])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TokenjouleError, match=r"records\.jsonl"):
        list(read([path]))


def test_numbers_that_are_none_cannot_be_recorded() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Metric("s", (1.0, float("nan")))
    with pytest.raises(ValueError, match="not finite"):
        Value("J", float("inf"))
    with pytest.raises(ValueError, match="reason"):
        Metric("s", ())


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenjouleError, match="cannot write"):
        append(tmp_path, [RECORD])


def test_every_record_names_the_run_that_made_it() -> None:
    fields = {part.name for part in dataclasses.fields(Record)}
    assert fields == {"benchmark", "stamp", "arm", "case", "group", "metrics", "derived"}
    assert set(RECORD.to_json()) == fields | {"schema"}
