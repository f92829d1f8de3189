"""The router's study from outcomes to records, tables and picture, on questions whose truth is planted."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench import report
from bench.experiments.router import main
from bench.record import read
from bench.routing.judge import judge
from bench.routing.split import prepared
from bench.routing.study import worth
from bench.routing.table import router_tables
from engine.predict.outcomes import Table, write_outcomes
from tests.bench.routing.planted import outcomes

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Records of one small file; fewer parts, prices and resamples than usual, which are what takes long."""
    root = tmp_path_factory.mktemp("study")
    write_outcomes(root / "planted.jsonl", outcomes(120))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.routing.study.PARTS", 2)
        patch.setattr("bench.routing.routed.PRICES", 6)
        patch.setattr("bench.routing.study.judge", partial(judge, resamples=50))
        command = [str(root / "planted.jsonl"), "--seeds", "1", "--resplits", "4"]
        assert main([*command, "--out", str(root / "runs.jsonl")]) == 0
    return root / "runs.jsonl"


def test_records_hold_every_rule_at_every_knob_and_say_what_joules_are_worth(study):
    found = list(read([study]))
    rules = {record.arm.name for record in found if record.group == "verdict"}
    assert {"cascade, estimated", "router", "agreement of two", "oracle of each query"} < rules
    for record in (r for r in found if r.group == "point"):
        energy = record.derived["energy"]
        assert energy.measured is False and energy.source == "table: planted"
        assert record.metrics["energy_j"].samples and 0 <= record.derived["accuracy"].value <= 1
    checks = [record for record in found if record.group == "check"]
    assert [record.arm.name for record in checks] == ["small", "peer", "large"]


@pytest.mark.parametrize(
    ("small", "large", "source", "measured"),
    [
        ("measured", "measured", "measured", True),
        ("curve", "curve", "curve", False),
        ("measured", "curve", "small: measured; peer: curve; large: curve", False),
    ],
)
def test_joules_are_measured_where_those_of_every_arm_are(small, large, source, measured):
    made = [replace(one, energy_source=small if one.arm == "small" else large) for one in outcomes(100)]
    assert worth(made, prepared(Table.of(made))) == (source, measured)


def test_the_tables_come_from_the_records_alone_and_again_the_same(study, capsys):
    assert main(["--from", str(study)]) == 0
    first = capsys.readouterr().out
    assert router_tables(list(read([study]))) in first
    assert "NOT MEASURED here: table: planted" in first
    last = json.loads(first.splitlines()[-1])
    assert last["measured"] is False
    assert last["studies"]["planted"]["random mix of fixed arms"]["over_mix"] == 0
    assert report.main([str(study)]) == 0
    assert "joules saved at −0.5 pt" in capsys.readouterr().out


def test_what_records_do_not_tell_has_no_column(study):
    new, old = (
        router_tables(list(read([path])))
        for path in (study, Path(report.__file__).parent / "results/router-stored-outputs.jsonl")
    )
    for column in ("gap in joules closed", "Brier score", "AUROC"):
        assert column in new and column not in old
    assert "| gap to oracle closed | mean accuracy" in old and "ECE, 10 bins | within" in old


def test_the_readme_s_part_is_made_by_the_report(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:router -->\nold\n<!-- end bench:router -->\n")
    assert report.main([str(study), "--update", str(readme)]) == 0
    text = readme.read_text()
    assert "cascade, estimated" in text and "old" not in text and "NOT MEASURED" in text


def test_the_picture_is_drawn(study, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "router.png"
    assert main(["--from", str(study), "--plot", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_bad_usage_is_refused_in_one_line(tmp_path, study, capsys):
    made = tmp_path / "made.jsonl"
    write_outcomes(made, outcomes(10))
    for arguments, words in (
        ([], "name a file of outcomes"),
        (["--from", str(study), "--seeds", "2"], "--seeds"),
        ([str(made), "--from", str(study)], "--from"),
        ([str(made), "--arms", "small,giant"], "no arm 'giant'"),
        ([str(made)], "a comparison needs"),
        ([str(made), "--seeds", "0"], "at least 1"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in error
    (tmp_path / "broken.jsonl").write_text("{}\n")
    assert main([str(tmp_path / "broken.jsonl")]) == 1
