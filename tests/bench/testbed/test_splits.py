"""Splits that stay what they were when they were frozen, and a test that is opened on the record only."""

import json

import pytest

from bench.calibration.tasks import questions
from bench.testbed import folds, splits, verify
from bench.testbed.question import CATEGORIES
from bench.testbed.splits import FROZEN, SPLITS, definition, file_digest, freeze, main, open_split
from bench.testbed.verify import VerifyRates
from engine.errors import TokenjouleError, UsageError


def test_the_frozen_file_is_of_this_code():
    kept = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert {name: kept[name] for name in definition()} == definition()
    assert open_split("development", per_category=1)


def test_no_seed_and_no_fold_is_in_two_splits():
    seeds = [set(range(split.first, split.first + split.questions, 1000)) for split in SPLITS.values()]
    hashed = [set(split.folds) for split in SPLITS.values()]
    for sets in (seeds, hashed):
        assert sum(len(found) for found in sets) == len(set().union(*sets))
    assert set().union(*hashed) == set(folds.HELD_OUT) and not set(folds.HELD_OUT) & set(folds.TRAINING)


def test_a_split_has_each_category_equally_often_and_is_the_same_again():
    asked = open_split("calibration", per_category=3)
    assert [question.category for question in asked] == list(CATEGORIES) * 3
    assert asked == open_split("calibration", per_category=5)[: len(asked)]
    only = open_split("calibration", per_category=3, categories=("verify",))
    assert only == [question for question in asked if question.category == "verify"]


def test_opening_the_test_split_needs_a_reason_and_leaves_a_line(tmp_path):
    openings = tmp_path / "openings.jsonl"
    with pytest.raises(UsageError, match="for a reason only"):
        open_split("test", per_category=1, openings=openings)
    assert not openings.exists()
    open_split("test", per_category=1, reason="a rehearsal", openings=openings)
    later = open_split("test", per_category=2, after=3, reason="another", openings=openings)
    assert [q.seed for q in later[::8]] == [SPLITS["test"].first + 3, SPLITS["test"].first + 4]
    lines = [json.loads(line) for line in openings.read_text(encoding="utf-8").splitlines()]
    assert [line["reason"] for line in lines] == ["a rehearsal", "another"]
    assert lines[0]["split"] == "test" and {"utc", "commit", "dirty", "sha256"} <= set(lines[0])


def test_no_split_opens_with_other_constants_than_the_frozen_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "RATES", VerifyRates(fix=0.9))
    openings = tmp_path / "openings.jsonl"
    with pytest.raises(TokenjouleError, match="other constants"):
        open_split("test", per_category=1, reason="a changed task", openings=openings)
    assert not openings.exists()
    path = tmp_path / "frozen.json"
    assert freeze(path) == json.loads(path.read_text())["sha256"]
    assert open_split("development", per_category=1, frozen=path)


def test_the_test_split_opens_to_frozen_files_only_and_says_which(tmp_path):
    curve, other = tmp_path / "curve.json", tmp_path / "other.json"
    curve.write_text("a rule")
    other.write_text("another rule")
    places = {"frozen": tmp_path / "frozen.json", "openings": tmp_path / "openings.jsonl"}
    freeze(places["frozen"], fitted={"S": curve})

    def opened(*fitted, split="test"):
        return open_split(split, per_category=1, reason="a rehearsal", fitted=fitted, **places)

    with pytest.raises(UsageError, match=r"other\.json was not frozen"):
        opened(curve, other)
    assert opened(other, split="calibration") and not places["openings"].exists()
    assert opened(curve)
    (line,) = places["openings"].read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["fitted"] == [file_digest(curve)]
    curve.write_text("a rule that was fitted once more")
    with pytest.raises(UsageError, match="was not frozen"):
        opened(curve)


def test_a_fitted_file_cannot_be_added_to_the_frozen_ones_by_hand(tmp_path):
    path, curve = tmp_path / "frozen.json", tmp_path / "curve.json"
    curve.write_text("a rule")
    freeze(path)
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "fitted": {"S": file_digest(curve)}}))
    with pytest.raises(TokenjouleError, match="other constants"):
        open_split("development", per_category=1, frozen=path)


def test_an_experiment_names_the_curve_that_the_test_split_opens_to():
    with pytest.raises(UsageError, match="--curve"):
        questions("testbed", "test", 1, reason="a rehearsal")


def test_the_command_freezes_with_the_files_it_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(splits, "freeze", lambda *, fitted: freeze(tmp_path / "frozen.json", fitted=fitted))
    curve = tmp_path / "curve.json"
    assert main(["--fitted", f"S={curve}"]) == 1
    assert "cannot read" in capsys.readouterr().err
    curve.write_text("a rule")
    assert main(["--fitted", f"S={curve}"]) == 0
    kept = json.loads((tmp_path / "frozen.json").read_text())
    assert kept["fitted"] == {"S": file_digest(curve)} and capsys.readouterr().out.strip() == kept["sha256"]
    with pytest.raises(SystemExit):
        main(["--fitted", str(curve)])


def test_no_split_opens_with_another_generator(monkeypatch):
    drawn = splits.numbered
    monkeypatch.setattr(
        splits, "numbered", lambda category, seed, **kinds: drawn(category, seed + 1, **kinds)
    )
    with pytest.raises(TokenjouleError, match="other constants"):
        open_split("development", per_category=1)


def test_a_missing_frozen_file_is_one_line(tmp_path):
    with pytest.raises(TokenjouleError, match="does not tell what the splits are"):
        open_split("development", per_category=1, frozen=tmp_path / "none.json")


@pytest.mark.parametrize(("name", "count"), [("validation", 1), ("test", 0), ("development", 10**9)])
def test_what_there_is_not_is_refused(name, count):
    with pytest.raises(UsageError, match="split"):
        open_split(name, per_category=count, reason="none")
