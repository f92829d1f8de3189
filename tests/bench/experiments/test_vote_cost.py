"""What a vote costs: arms of a round are the same question and seed, and a ratio too large is a failure."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments.vote_cost import REQUIRED, main
from bench.record import Record, append, read

SMALL = ["--backend", "torch", "--energy-source", "estimate", "--rounds", "3", "--samples", "2"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out: Path = tmp_path_factory.mktemp("vote") / "cost.jsonl"
    main([*SMALL, "--max-new-tokens", "6", "--out", str(out)])
    return list(read([out]))


def test_every_arm_ran_in_every_round_on_the_same_seeds(records: list[Record]) -> None:
    arms = {record.arm.name: record for record in records}
    assert len(arms) == len(records) == 6
    assert {len(record.metrics["run_s"].samples) for record in records} == {3}
    assert arms["vote"].metrics["new_tokens"] == arms["vote, a prefill each"].metrics["new_tokens"]
    assert arms["vote"].case.rows == arms["vote among choices"].case.rows == 2
    assert arms["direct choice"].case.rows == 1
    for one in REQUIRED:
        ratio = arms[one.arm].derived["times_j"]
        assert ratio.measured is False
        assert ratio.source == f"{one.reference}; energy source estimate"
        assert ratio.value is not None
        pairs = [arms[name].metrics["energy_j"].median or 0 for name in (one.arm, one.reference)]
        assert ratio.value == pytest.approx(pairs[0] / pairs[1])


def test_records_are_shown_again_and_a_ratio_too_large_fails(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(value: float) -> int:
        path = tmp_path / f"{value}.jsonl"
        changed = [
            replace(
                record,
                derived={
                    name: replace(found, value=value, low=value, high=value)
                    for name, found in record.derived.items()
                },
            )
            for record in records
        ]
        append(path, changed)
        return main(["--from", str(path)])

    assert again(1.1) == 0
    assert "NOT MEASURED" in capsys.readouterr().out
    assert again(1.3) == 1
    assert "vote among choices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--rounds", "2"], 2), (["--from", "nowhere.jsonl"], 1), (["--unknown"], 2)]
)
def test_bad_usage_is_one_line(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert capsys.readouterr().err.count("\n") == 1
