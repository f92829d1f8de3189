"""The table of compiled kernels is made from the records of `bench.aot` alone."""

from dataclasses import replace
from pathlib import Path

from bench.aot_table import aot_section, aot_tables
from bench.record import Arm, Case, Record, Value, append
from bench.report import main, newest
from tests.bench.records import STAMP


def compiled(kernel: str, capability: int, registers: int | None, ahead: int = 0, wrong: str = "") -> Record:
    arm = Arm(f"{kernel} sm_{capability}", "tokenjoule", "gpu", "none", "bf16", note="BATCH=1")
    figures = {
        "registers": ("1", registers),
        "stack": ("B", None if registers is None else 8 * bool(wrong)),
        "shared": ("B", None if registers is None else registers << 10),
        "programs_per_sm": ("1", None if registers is None else 2),
        "weights_before_wait": ("B", None if registers is None else ahead),
    }
    derived = {"holds": Value("1", float(not wrong), source=wrong)}
    for name, (unit, value) in figures.items():
        derived[name] = Value(unit, value, reason=None if value is not None else wrong)
    case = Case("preset:llama-3.2-1b", True, "decode greedy", 1, 1024)
    return Record("aot", STAMP, arm, case, f"{STAMP.run}/sm_{capability}", {}, derived)


RECORDS = [
    compiled("add_kernel", 90, 96, ahead=256),
    compiled("add_kernel", 90, 128, ahead=128),
    compiled("add_kernel", 80, 150),
    compiled("begin_kernel", 80, 30),
]


def cells(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {f"{name} {architecture}": rest for name, architecture, *rest in lines}


def test_a_row_is_of_all_variants_of_a_kernel_on_an_architecture() -> None:
    found = cells(aot_tables(RECORDS))
    assert found["add_kernel sm_90"] == ["2 of 2", "96–128", "0", "96–128", "2", "128"]
    assert found["add_kernel sm_80"] == ["1 of 1", "150", "0", "150", "2", "–"], "nothing waits there"
    assert found["all sm_80"] == ["2 of 2", "30–150", "0", "30–150", "2", "–"]
    assert found["all sm_90"] == found["add_kernel sm_90"]


def test_what_fails_is_named_with_its_variant() -> None:
    spilt = compiled("head_kernel", 89, 255, wrong="8 bytes of stack")
    refused = compiled("head_kernel", 89, None, wrong="does not compile: PTXASError")
    table = aot_tables([*RECORDS, spilt, refused])
    found = cells(table.partition("\n\n")[0])
    assert found["head_kernel sm_89"] == ["0 of 2", "255", "8", "255", "2", "–"]
    assert table.count("| head_kernel sm_89 | BATCH=1 | ") == 2
    assert "| 8 bytes of stack |" in table and "| does not compile: PTXASError |" in table
    assert "Fails" not in aot_tables(RECORDS)


def test_runs_of_other_variants_stand_beside_each_other_and_a_newer_one_of_the_same_replaces() -> None:
    later = replace(STAMP, run="r2", utc="2026-01-03T00:00:00+00:00")
    again = replace(compiled("add_kernel", 80, 140), stamp=later)
    more = replace(compiled("merge_kernel", 80, 64), stamp=later)
    found = cells(aot_tables(newest([*RECORDS, again, more], None)))
    assert found["add_kernel sm_80"][:2] == ["1 of 1", "140"] and found["begin_kernel sm_80"][0] == "1 of 1"
    assert found["all sm_80"][0] == "3 of 3"


def test_a_document_is_filled_from_the_records_of_a_file(tmp_path: Path) -> None:
    append(tmp_path / "aot.jsonl", RECORDS)
    document = tmp_path / "results.md"
    document.write_text("<!-- bench:aot -->\n<!-- end bench:aot -->\n", encoding="utf-8")
    assert main([str(tmp_path / "aot.jsonl"), "--update", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert aot_section(RECORDS).rstrip() in text and "| begin_kernel | sm_80 | 1 of 1 |" in text
    assert aot_section([]) == "Not compiled.\n" and aot_tables([]) == ""
