"""Results to CodeCarbon's rows; what needs the library is skipped where it is not installed."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import emissions
from bench.emissions import Grid, main, read_results, row
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError

GRID = Grid("FRA", "France", 60.0, 2023, "3.3.2")


@pytest.fixture(scope="module")
def result(letters_directory: Path) -> dict[str, Any]:
    with Engine.load(letters_directory, backend="torch", energy_source="estimate") as engine:
        return engine.generate([5, 6, 7], max_new_tokens=4).to_json()


def test_a_result_becomes_kilowatt_hours_and_kilograms(result: dict[str, Any]) -> None:
    energy = {**result["energy"], "window_j": 7200.0}
    timing = {**result["timing"], "first_token_s": 1.0, "decode_s": 3.0}
    found = row({**result, "energy": energy, "timing": timing}, GRID)
    assert found["cpu_energy"] == found["energy_consumed"] == pytest.approx(0.002)
    assert found["emissions"] == pytest.approx(0.002 * 0.060)
    assert found["emissions_rate"] == pytest.approx(0.002 * 0.060 / 4)
    assert (found["duration"], found["cpu_power"], found["gpu_energy"]) == (4.0, 1800.0, None)
    assert (found["country_iso_code"], found["country_name"]) == ("FRA", "France")
    where = "France: 60 g CO2e/kWh, 2023, global_energy_mix.json of CodeCarbon 3.3.2"
    assert found["tracking_mode"] == f"estimate, NOT measured; grid {where}"


def test_a_hosts_measured_joules_are_added_to_the_gpus(result: dict[str, Any]) -> None:
    joules = {"window_j": 3.6e6, "host_j": 1.8e6, "source": "nvml", "measured": True}
    found = row({**result, "energy": {**result["energy"], **joules}}, GRID)
    assert (found["gpu_energy"], found["cpu_energy"], found["energy_consumed"]) == (1.0, 0.5, 1.5)
    assert found["tracking_mode"].startswith("nvml, measured; grid")
    assert found["gpu_model"] == result["device"]


def test_lines_that_are_no_results_are_refused_by_number(tmp_path: Path, result: dict[str, Any]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(result) + "\n\n" + json.dumps(result))
    assert len(list(read_results(path))) == 2
    for line, said in (
        ("{}", "not a result"),
        ('{"schema": "other/1"}', "other/1"),
        (json.dumps({**result, "energy": {**result["energy"], "window_j": None, "problem": "gone"}}), "gone"),
    ):
        path.write_text(json.dumps(result) + "\n" + line)
        with pytest.raises(TokenjouleError, match=f":2:.*{said}"):
            list(read_results(path))
    path.write_text("\n")
    with pytest.raises(UsageError, match="no results"):
        list(read_results(path))


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path, result: dict[str, Any]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**result, "text": "a\u2028b\x85c"}, ensure_ascii=False), encoding="utf-8")
    assert [found["text"] for found in read_results(path)] == ["a\u2028b\x85c"]


def test_estimates_are_refused_where_measurements_are_required(
    tmp_path: Path, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**result, "energy": {**result["energy"], "measured": False}}))
    assert main([str(path), "--country", "FRA", "--require-measured"]) == 1
    assert "1 of 1 are not measured" in capsys.readouterr().err


def test_results_that_a_meter_told_only_in_part_are_counted(
    tmp_path: Path,
    result: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon.core.emissions", None)
    path = tmp_path / "results.jsonl"
    broken = {**result, "energy": {**result["energy"], "complete": False}}
    path.write_text(json.dumps(result) + "\n" + json.dumps(broken))
    assert main([str(path), "--country", "FRA"]) == 1
    assert "INCOMPLETE: the meter failed in 1 of 2 results" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(
    tmp_path: Path,
    result: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon.core.emissions", None)
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(result))
    assert main([str(path), "--country", "FRA"]) == 1
    assert "pip install -e '.[carbon]'" in capsys.readouterr().err


def test_the_file_is_codecarbons_own(
    tmp_path: Path, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("codecarbon", reason="codecarbon is not installed (pip install -e '.[carbon]')")
    from codecarbon.output_methods.emissions_data import EmissionsData

    path, out = tmp_path / "results.jsonl", tmp_path / "emissions.csv"
    path.write_text(json.dumps(result))
    for _ in range(2):
        assert main([str(path), "--country", "fra", "--out", str(out)]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(EmissionsData.__dataclass_fields__)
    assert len(rows) == 2
    found = emissions.grid("FRA")
    assert 20 < found.g_per_kwh < 120 and (found.year or 0) >= 2022
    kwh = result["energy"]["window_j"] / 3.6e6
    assert float(rows[0]["energy_consumed"]) == pytest.approx(kwh)
    assert float(rows[0]["emissions"]) == pytest.approx(kwh * found.g_per_kwh / 1e3)
    assert rows[0]["ram_energy"] == "" and "global_energy_mix.json" in rows[0]["tracking_mode"]
    assert summary["grid_year"] == found.year
    with pytest.raises(UsageError, match="no grid of 'XYZ'"):
        emissions.grid("XYZ")
