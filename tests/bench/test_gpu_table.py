"""What must hold on a GPU and its tables, from made-up records in a temporary file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cuda.setting import HOOKED, NO_DEPENDENT, OFF
from bench.gpu_table import everything_gpu, gpu_section, holds
from bench.gpu_targets import GOALS, LARGE, SMALL, gpu_outcomes
from bench.record import Arm, Case, Metric, Record, Value, append, read
from bench.report import main, newest
from tests.bench.records import STAMP


def made(
    part: str,
    arm: str,
    seconds: Sequence[float],
    *,
    model: str = SMALL,
    phase: str = "decode",
    rows: int = 1,
    context: int = 128,
    group: str = "a",
    engine: str = "tokenjoule",
    run: str = "r1",
) -> Record:
    """One arm of one part of `bench.gpu`."""
    metric = "run_s" if part == "kernels" else "step_s"
    derived = {
        "bandwidth": Value("B/s", 4e12),
        "roofline_share": Value("1", 0.93, 0.92, 0.94, "a reader"),
        "read_share": Value("1", 0.93, 0.92, 0.94, "a reader"),
        "energy": Value("J/tok", 0.31, source="nvml, interpolated", measured=True),
    }
    return Record(
        f"gpu/{part}",
        replace(STAMP, run=run),
        Arm(arm, engine, "gpu", "none", "bfloat16"),
        Case(model, True, phase, rows, context),
        f"{run}/{part} {group}",
        {metric: Metric("s", tuple(seconds))},
        derived,
    )


ALL = [
    made("decode", "gpu none", (650e-6, 640e-6, 660e-6)),
    made("decode", "gpu none", (700e-6, 710e-6, 720e-6), context=8192),
    made("decode", "gpu none", (645e-6, 655e-6), group="b"),
    made("decode", "transformers compiled", (1.95e-3, 1.96e-3), group="b", engine="transformers"),
    made("decode", "gpu none", (4.0e-3, 4.1e-3), model=LARGE),
    made("quantized", "gpu none", (4.0e-3, 4.0e-3), model=LARGE),
    made("quantized", "gpu int8", (2.0e-3, 2.0e-3), model=LARGE),
    made("kernels", "gpu none", (55e-6, 56e-6), model=LARGE, phase="gate_up"),
    made("kernels", "gpu none", (255e-6, 256e-6), model=LARGE, phase="head_select"),
    made("kernels", "gpu none", (70e-6, 71e-6), model=LARGE, phase="attention", rows=8, context=8192),
    made("kernels", "SDPA", (140e-6, 141e-6), model=LARGE, phase="attention", rows=8, context=8192),
    made("kernels", "SDPA flash", (77e-6, 77e-6), model=LARGE, phase="attention", rows=8, context=8192),
    made("rows", "gpu none", (700e-6, 700e-6), context=4096),
    made("rows", "gpu none", (770e-6, 770e-6), context=4096, rows=8),
    made("ablations", "gpu none", (640e-6, 640e-6), context=1024),
    made("ablations", NO_DEPENDENT, (700e-6, 700e-6), context=1024),
    made("overhead", OFF, (650e-6, 650e-6), context=1),
    made("overhead", HOOKED, (652e-6, 652e-6), context=1),
]


def found(records: Sequence[Record]) -> dict[str, tuple[float | None, bool | None]]:
    return {o.target.name: (o.ratio and round(o.ratio.medians, 4), o.holds) for o in gpu_outcomes(records)}


def test_every_goal_is_worked_out_from_its_own_records() -> None:
    assert list(found(ALL).values()) == [
        (650.0, True),  # of the case with most rounds, not of the one beside transformers
        (4.05, False),
        (round(1.955 / 0.650, 4), True),
        (2.0, True),
        (0.93, True),
        (0.93, True),
        (0.93, True),
        (round(77 / 70.5, 4), True),  # of the fastest SDPA
        (1.1, True),
        (None, None),
        (round(1 - 640 / 700, 4), None),
        (round(652 / 650 - 1, 4), True),
    ]


def test_without_records_every_row_says_what_is_missing() -> None:
    assert all(value == (None, None) for value in found([]).values())
    lines = gpu_section([]).splitlines()
    assert len(lines) == 2 + len(GOALS)
    assert all("not measured: no record of" in line for line in lines[2:])


def test_what_was_not_interleaved_is_not_compared() -> None:
    apart = [replace(r, group=f"{r.group} {n}") for n, r in enumerate(ALL)]
    reasons = {o.target.name: o.reason for o in gpu_outcomes(apart)}
    assert reasons["int8 over own bf16 (8B)"] == "measured, but not interleaved in one group"


def test_a_record_without_samples_is_not_measured() -> None:
    lost = replace(ALL[0], metrics={"step_s": Metric("s", (), "it broke")}, derived={})
    assert found([lost])["Llama-3.2-1B bf16, one row, token chosen on the device"] == (None, None)
    assert "not measured: it broke" in everything_gpu([lost])


def test_the_readme_is_made_from_the_records_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, readme = tmp_path / "results.jsonl", tmp_path / "README.md"
    append(results, ALL)
    readme.write_text("before\n<!-- bench:gpu -->\nyesterday\n<!-- end bench:gpu -->\nafter\n")
    assert main([str(results), "--update", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "yesterday" not in text
    assert "| Llama-3.2-1B bf16, one row, token chosen on the device | ≤ 700 µs | ≤ 640 µs | 650 µs |" in text
    assert "| Llama-3.1-8B bf16 | ≤ 3.90 ms | ≤ 3.75 ms | 4.05 ms |" in text and "| NO |" in text
    assert "| dependent launch, step time saved (1B) | reported | ≥ 8.0% | 8.6% |" in text
    assert "| 8 samples of a shared 4k prompt over 1 row (8B) | ≤ 1.25× | ≤ 1.10× | not measured:" in text
    assert (
        "| preset:llama-3.2-1b, 1 row, context 128 | gpu none | 650.0 (645.0–655.0) | 4000 | 93.0% | 0.31 |"
        in text
    )
    assert "random weights" in text
    assert main([str(results)]) == 0
    assert "| Quantized | arm |" in capsys.readouterr().out


def test_parts_of_several_runs_are_shown_together() -> None:
    later = replace(STAMP, run="r2", utc="2026-02-01T00:00:00+00:00")
    again = replace(ALL[5], stamp=later, group="r2/quantized a")
    kept = newest([*ALL, again], None)
    assert {(r.benchmark, r.stamp.run) for r in kept if "quantized" in r.benchmark} == {
        ("gpu/quantized", "r2")
    }
    assert any(r.benchmark == "gpu/decode" for r in kept), "of a part that ran earlier the earlier run"


def check(error: float | None, allowed: float = 1.0) -> Record:
    metric = Metric("1", (), "illegal address") if error is None else Metric("1", (error,))
    case = Case("kernel", True, "gate_up", 1, 0)
    derived = {} if error is None else {"allowed": Value("1", allowed)}
    return Record("gpu/smoke", STAMP, ALL[0].arm, case, "r1/smoke gate_up", {"error": metric}, derived)


def test_checks_that_fail_have_a_row_each() -> None:
    assert [holds(check(e)) for e in (0.5, 1.0, 1.1, None)] == [True, True, False, False]
    text = everything_gpu([check(0.5), check(1.1), check(None)])
    assert "| Checks: 1 of 3 hold | off by | allowed |" in text
    assert "| gate_up: gpu none | 1.1 | 1 |" in text and "not measured: illegal address" in text


def test_records_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [*ALL, check(0.5), check(None)])
    assert list(read([path]))[: len(ALL)] == ALL
