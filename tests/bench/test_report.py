"""Tables from records, what must hold, and the README's section between its markers."""

import dataclasses
import struct
from pathlib import Path

import pytest

from bench.record import Case, Metric, Record, Value, append
from bench.report import everything, main, newest, summary, update
from bench.tables import markdown, origin, target_table
from bench.targets import CPU_TARGETS, outcomes
from engine.errors import UsageError
from tests.bench.records import INT8, LLAMA, OURS, STAMP, TORCH, decoded

RUN = [
    decoded(OURS, (0.10, 0.11, 0.10)),
    decoded(INT8, (0.05, 0.06, 0.05)),
    decoded(LLAMA, (0.15, 0.16, 0.15)),
    decoded(TORCH, (0.19, 0.19, 0.20)),
    decoded(OURS, (0.10, 0.10, 0.10), group="r1/scaling cpu none"),
    decoded(OURS, (0.17, 0.18, 0.17), rows=8, group="r1/scaling cpu none"),
]


def measured(records: list[Record]) -> dict[str, tuple[float | None, bool | None]]:
    return {o.target.name: (o.ratio and round(o.ratio.medians, 2), o.holds) for o in outcomes(records)}


def test_each_target_is_worked_out_from_its_own_records() -> None:
    found = measured(RUN)
    assert found["bf16 decode, share of the read bandwidth"] == (0.8, True)
    assert found["bf16 decode over llama.cpp BF16"] == (1.5, True)
    assert found["bf16 decode over transformers bf16"] == (1.9, False)
    assert found["int8 decode over own bf16"] == (2.0, True)
    assert found["8 rows decoded together, step time over 1 row (bf16)"] == (1.7, False)
    assert found["int8 decode over llama.cpp Q8_0"] == (None, None)


def test_arms_that_were_not_interleaved_are_not_compared() -> None:
    apart = [RUN[0], dataclasses.replace(RUN[2], group="r1/another")]
    reasons = {o.target.name: o.reason for o in outcomes(apart)}
    assert reasons["bf16 decode over llama.cpp BF16"] == "measured, but not interleaved in one group"


def test_an_arm_that_sat_out_rounds_is_compared_over_those_it_was_in() -> None:
    found = measured([decoded(OURS, (0.1, 0.1)), decoded(LLAMA, (0.2, 0.2, 9.0))])
    assert found["bf16 decode over llama.cpp BF16"] == (2.0, True)


def test_the_shortest_context_of_the_run_is_the_one_that_counts() -> None:
    records = [
        decoded(a, t, context=c) for c in (512, 64) for a, t in ((OURS, (c / 1e3,) * 2), (LLAMA, (1.0,) * 2))
    ]
    assert measured(records)["bf16 decode over llama.cpp BF16"] == (15.62, True)


def test_the_table_of_targets_says_what_was_not_measured() -> None:
    lines = target_table(RUN).splitlines()
    assert len(lines) == 2 + len(CPU_TARGETS)
    row = next(line for line in lines if line.startswith("| bf16 decode over llama.cpp BF16 "))
    assert [cell.strip() for cell in row.split("|")[1:5]] == [
        "bf16 decode over llama.cpp BF16", "≥ 1.3×", "≥ 1.5×", "1.50×",
    ]  # fmt: skip
    assert "| NO |" in next(line for line in lines if "8 rows" in line)
    assert "not measured: no record of llama.cpp Q8_0" in next(line for line in lines if "Q8_0" in line)


def test_every_arm_has_a_row_in_every_case() -> None:
    text = everything([*RUN, decoded(OURS, (0.3, 0.3), rows=4)])
    tables = text.split("\n\n")
    assert tables[0].startswith("| Decode, 1 row, context 128 |")
    assert (
        "| cpu none | 10 | 100000 (100000–105000) | 25.0 | 80% | 0.75 (estimate) | not measured |"
        in tables[0]
    )
    assert tables[1].startswith("| Decode, 4 rows, context 128 |")
    assert "| llama.cpp BF16 | not measured |" in tables[1]
    assert "`python -m bench.decode`" in text and "random weights" in text


def test_joules_show_their_source_and_their_interval() -> None:
    def with_energy(value: Value) -> str:
        record = decoded(OURS, (0.1, 0.1))
        return everything([dataclasses.replace(record, derived={**record.derived, "energy": value})])

    assert "| 0.75 ± 0.1 |" in with_energy(Value("J/tok", 0.75, 0.65, 0.85, "rapl, interpolated", True))
    assert "| 0.75 (simulated) |" in with_energy(Value("J/tok", 0.75, source="simulated, x", measured=False))
    assert "| not measured: no meter |" in with_energy(Value("J/tok", None, reason="no meter"))


def test_peak_memory_stands_beside_the_weights() -> None:
    case = Case("m", True, "load", 1, 8)
    peak = Record(
        "memory", STAMP, OURS, case, "r1/memory", {"peak_b": Metric("B", (2.6e9,))},
        {"weights": Value("B", 2.5e9), "peak_over_weights": Value("1", 1.04)},
    )  # fmt: skip
    assert "| 2.60 GB (1.04 × weights) |" in everything([RUN[0], peak])
    old = dataclasses.replace(peak, stamp=dataclasses.replace(STAMP, run="r0"))
    assert "2.60 GB" not in everything([RUN[0], old]), "a run without it does not borrow another's"
    lost = dataclasses.replace(peak, metrics={"peak_b": Metric("B", (), "it was killed")}, derived={})
    assert "| not measured: it was killed |" in everything([RUN[0], lost])


def test_the_newest_run_counts_unless_another_is_named(tmp_path: Path) -> None:
    later = dataclasses.replace(STAMP, run="r2", utc="2026-02-01T00:00:00+00:00")
    records = [decoded(OURS, (0.2, 0.2), stamp=later, group="r2/decode"), *RUN]
    assert {r.stamp.run for r in newest(records, None)} == {"r2"}
    assert {r.stamp.run for r in newest(records, "r1")} == {"r1"}
    with pytest.raises(UsageError, match="no run 'r3'; the files hold r2, r1"):
        newest(records, "r3")
    with pytest.raises(UsageError, match="no records"):
        newest([], None)


def test_the_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench:decode -->\nyesterday\n<!-- end bench:decode -->\nafter\n")
    update(path, RUN)
    text = path.read_text()
    assert text.startswith("before\n<!-- bench:decode -->\n") and text.endswith(
        "<!-- end bench:decode -->\nafter\n"
    )
    assert "yesterday" not in text and summary(RUN).rstrip() in text
    update(path, RUN)
    assert path.read_text() == text, "once more changes nothing"
    path.write_text("<!-- bench:speed -->\n<!-- end bench:speed -->\n")
    with pytest.raises(UsageError, match="unknown marker 'speed'"):
        update(path, RUN)
    path.write_text("nothing here\n")
    with pytest.raises(UsageError, match="no marker"):
        update(path, RUN)


def test_the_summary_says_when_there_is_nothing() -> None:
    assert summary([]) == "Not measured.\n"


def test_the_command_line_prints_updates_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, figure = tmp_path / "records.jsonl", tmp_path / "figure.png"
    append(file, RUN)
    assert main([str(file), "--figure", str(figure)]) == 0
    assert capsys.readouterr().out.startswith("| Decode, 1 row")
    head = figure.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:24]) > (300, 300)
    assert main([str(tmp_path / "absent.jsonl")]) == 1
    assert "absent.jsonl" in capsys.readouterr().err
    assert main([str(file), "--run", "r9"]) == 2
    assert main([str(file), "--colour"]) == 2


def test_fidelity_in_a_file_is_that_of_decoding(tmp_path: Path) -> None:
    def compared(phase: str, kl: float) -> Record:
        nats = {name: Value("nat", kl, kl, kl) for name in ("kl", "nll_over_reference")}
        most = {"kl_max": Value("nat", kl), "nll": Value("nat", 1.0), "top1": Value("1", 0.5)}
        case = Case("tiny", False, phase, 1, 0, 7)
        metrics = {"kl": Metric("nat", (kl,))}
        return Record("fidelity", STAMP, OURS, case, f"r1/{phase}", metrics, nats | most)

    path = tmp_path / "README.md"
    path.write_text("<!-- bench:fidelity -->\nearlier\n<!-- end bench:fidelity -->\n")
    update(path, [compared("prefill", 0.25), compared("decode", 0.125)])
    text = path.read_text()
    assert "1.25e-01" in text and "2.50e-01" not in text and "earlier" not in text
    assert "a chip, 2 cores" in text
    update(path, RUN)
    assert "Not measured." in path.read_text()


def test_a_line_says_where_figures_are_from() -> None:
    line = origin(dataclasses.replace(STAMP, dirty=True), shape_only=False)
    assert "a chip, 2 cores, 2026-01-02, commit 012345678 with changes" in line
    assert "triton" not in line, "it is not installed"
    assert "unknown commit" in origin(dataclasses.replace(STAMP, commit=None, dirty=None), shape_only=False)


def test_markdown_is_a_table() -> None:
    assert markdown(("a", "b"), [("x", "y")]) == "| a | b |\n|---|---:|\n| x | y |"


@pytest.mark.parametrize("benchmark", ["curves", "fig1", "fig2", "fig3", "fig4"])
def test_records_that_have_their_tables_elsewhere_are_not_passed_over_in_silence(benchmark: str) -> None:
    text = everything([dataclasses.replace(RUN[0], benchmark=benchmark)] * 3)
    assert f"3 records of {benchmark}:" in text


def test_whole_steps_stand_below_their_stages() -> None:
    case = dataclasses.replace(RUN[0].case, phase="step")
    metrics = {"run_s": Metric("s", (0.1, 0.1))}
    step = dataclasses.replace(RUN[0], benchmark="kernels", case=case, metrics=metrics)
    assert "| Whole decode step |" in everything([step])
