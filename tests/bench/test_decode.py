"""`bench.decode` from its command line on the bundled model, with very few rounds."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import contender, lineup, memory, timing
from bench.cells import check_near
from bench.contender import fill
from bench.decode import main
from bench.decode_run import DecodeRun, Plan
from bench.engine_contender import EngineContender
from bench.record import Record, read
from bench.source import open_source
from bench.stamp import stamp
from bench.timing import WrongAnswer
from engine.errors import UsageError
from kernels import cost
from kernels.cost import RowWork
from tests.bench.records import OURS, STAMP

SMALL = ("--contexts", "8,24", "--rows", "1,2", "--prefill", "16", "--rounds", "3", "--reader-megabytes", "1")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    monkeypatch.setattr(contender, "cores", lambda: 1)  # on a busy machine a second thread waits, and long


def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *argv: str
) -> tuple[dict[str, Any], list[Record], str]:
    """(last line of stdout, records, stdout)."""
    out = tmp_path / "records.jsonl"
    assert main([*SMALL, "--no-memory", "--cache", str(tmp_path), "--out", str(out), *argv]) == 0
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1]), list(read([out])), printed


def test_every_arm_has_a_record_in_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last, records, printed = run(tmp_path, capsys, "--backends", "cpu,torch")
    decoded = [r for r in records if r.benchmark == "decode"]
    cells = [(r.arm.name, r.case.rows, r.case.context) for r in decoded if "/decode " in r.group]
    assert len(cells) == len(set(cells)) == 2 * 4
    scaling = [r for r in decoded if "/scaling cpu none" in r.group]
    assert [(r.case.rows, r.case.context) for r in scaling] == [(1, 8), (2, 8), (1, 24)]
    for record in (r for r in decoded if r.case.phase == "decode"):
        assert len(record.metrics["step_s"].samples) == 3
        assert record.derived["energy"].measured is False
        assert (record.derived["read_share"].value or 0) > 0
        beside = [r for r in records if r.group == record.group and r.benchmark == "bandwidth"]
        assert record.derived["read_share"].source in {r.arm.name for r in beside}
    assert {r.benchmark for r in records} == {"decode", "bandwidth"}
    assert len({r.stamp.run for r in records}) == 1
    assert last["records"] == len(records) and last["skipped"] == {}
    assert ["cpu none 1x8", "torch none 1x8"] in last["interleaved"]
    shares = {t["name"]: t["measured"] for t in last["targets"]}
    assert shares["bf16 decode, share of the read bandwidth"] is not None
    assert shares["int8 decode over own bf16"] is None
    assert "| Prefill of 16 tokens |" in printed


def test_packed_weights_and_missing_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    for module in ("gguf", "llama_cpp", "llama_cpp.llama_cpp"):
        monkeypatch.setitem(sys.modules, module, None)
    options = ("--backends", "torch", "--quantize", "none,int8", "--peers", "transformers,llama.cpp")
    last, records, _ = run(tmp_path, capsys, *options, "--contexts", "8", "--rows", "1", "--prefill", "0")
    assert last["skipped"] == {
        name: f"{package} is not installed (pip install -e '.[peers]')"
        for name, package in (
            ("transformers none", "transformers"),
            ("llama.cpp F32", "gguf"),
            ("llama.cpp Q8_0", "gguf"),
        )
    }
    plain, packed = (
        next(r for r in records if r.arm.name == name and r.benchmark == "decode")
        for name in ("torch none", "torch int8")
    )
    share = (packed.derived["bytes"].value or 0) / (plain.derived["bytes"].value or 1)
    assert share == pytest.approx((8 + 16 / 128) / 32, rel=0.1), "of fp32"


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_peers_run_beside_us_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--backends", "torch", "--peers", "transformers,llama.cpp", "--dtype", "bf16")
    last, records, printed = run(tmp_path, capsys, *options, "--contexts", "8", "--rows", "1,2")
    assert last["skipped"] == {}
    arms = ["torch none", "transformers none", "llama.cpp BF16"]
    for rows in (1, 2):
        found = [r for r in records if r.benchmark == "decode" and r.group.endswith(f"/decode {rows}x8")]
        assert [r.arm.name for r in found] == arms
    assert [r.arm.name for r in records if r.benchmark == "alone"] == arms[1:]
    assert "| ms per step | interleaved | alone |" in printed
    assert "flash" in next(r for r in records if r.arm.engine == "llama.cpp").arm.note or "plain" in printed


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--backends", "warp"], 2, "unknown backend 'warp'"),
        (["--peers", "vllm"], 2, "unknown peer 'vllm'; known: transformers, llama.cpp"),
        (["--quantize", "int3"], 2, "unknown scheme 'int3'"),
        (["--only", "nobody"], 2, "no arm is left"),
        (["--only", "("], 2, "is not a pattern"),
        (["--contexts", "3"], 2, "contexts of 2 more"),
        (["--contexts", "0"], 2, "at least 1"),
        (["--contexts", "4096"], 2, "has a context of 256"),
        (["--model", "preset:llama-3.2-1b"], 2, "add --random-weights"),
        (["--model", "preset:none"], 2, "unknown preset"),
        (["--energy-source", "wind"], 2, "unknown energy source"),
        (["--speed"], 2, "unrecognized arguments"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    argv: list[str], status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--cache", str(tmp_path), "--backends", "torch", *SMALL]
    assert main([*small, *argv]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error and "Traceback" not in error


def test_a_wrong_arm_is_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    good, bad = (EngineContender(source, "torch", "none") for _ in range(2))
    bad.arm = replace(bad.arm, name="planted")
    plan = Plan((8,), (1,), 0, 2, 1, 5.0, 0, "estimate", 1e12, 1 << 20)
    monkeypatch.setattr(bad, "prefill", lambda tokens: good.prefill(tokens[::-1]))
    skipped: list[lineup.Skipped] = []
    running = DecodeRun(source, [good, bad], plan, stamp("test", [], torch.device("cpu")), skipped)
    arms = {record.arm.name for record in running.records() if record.benchmark == "decode"}
    assert arms == {"torch none"}
    assert [missing.name for missing in skipped] == ["planted"] and "another model" in skipped[0].reason


def test_peers_that_do_not_fit_beside_each_other_run_in_turn(tmp_path: Path) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    ours = EngineContender(source, "torch", "none")
    peers = []
    for name in ("a", "b"):
        peer = EngineContender(source, "torch", "none")
        peer.arm = replace(peer.arm, name=name, engine="another")
        peers.append(peer)
    where = stamp("test", [], torch.device("cpu"))

    def groups(room: float) -> list[list[str]]:
        plan = Plan((8,), (1,), 0, 2, 1, 5.0, 0, "estimate", memory.resident() + room, 1 << 20)
        running = DecodeRun(source, [ours, *peers], plan, where, [])
        return [[c.arm.name for c in group] for group in running._groups(16, 200)]

    cache = (
        16 * 200 * 2 * 4 * 2 * 32 * 4
    )  # rows · positions · keys and values · layers · heads · dims · bytes
    assert groups(50 * cache) == [["torch none", "a", "b"]]
    assert groups(3.5 * cache) == [["torch none", "a"], ["torch none", "b"]]


def test_the_tolerance_tells_models_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, other = torch.randn(1000, generator=draw), torch.randn(1000, generator=draw)
    check_near("none", logits * 1.05, logits)
    for packing in ("none", "Q8_0", "int4"):
        with pytest.raises(WrongAnswer):
            check_near(packing, other, logits)
    with pytest.raises(WrongAnswer):
        check_near("none", torch.full_like(logits, float("nan")), logits)


def test_a_decoding_rolls_back_and_counts_its_bytes(tmp_path: Path) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    ours = EngineContender(source, "cpu", "none")
    filled = fill(source.config, torch.float32, 3, 29)
    steps = ours.start(filled, 2)
    first = steps.logits()
    for _ in range(3):
        steps.step()
    assert [filled.cache.length(row) for row in filled.ids] == [32] * 3
    steps.rollback()
    assert torch.equal(steps.logits(), first)
    assert steps.bytes == cost.forward(ours.model.dims(), [RowWork(1, 32)] * 3).bytes
    keys, values = filled.layers()[1]
    assert keys.shape == values.shape == (3, 2, 29, 32)
    row = filled.cache.extend({filled.ids[1]: 1}).rows[0]
    assert row.first_slot is not None
    assert torch.equal(keys[1, :, 0], filled.cache.layers[1].keys[row.first_slot])


def test_peak_memory_is_that_of_another_process(tmp_path: Path) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    arm = EngineContender(source, "torch", "none").arm
    where = stamp("test", [], torch.device("cpu"))
    record = memory.record(source, arm, 3e6, where, "r/memory")
    peak = record.metrics["peak_b"].median
    assert peak is not None and 0 < peak < 200e6
    assert record.derived["peak_over_weights"].value == pytest.approx(peak / 3e6)


def test_a_process_that_fails_leaves_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    told = ["--model", "m", "--directory", str(source.directory), "--dtype", "float32", "--key", "k"]
    assert memory.main(["--arm", "warp none", "--cache", str(tmp_path), *told]) == 2
    assert "unknown backend 'warp'" in capsys.readouterr().err

    def fail(source: object, arm: str) -> int:
        raise subprocess.TimeoutExpired(arm, 600)

    monkeypatch.setattr(memory, "_ask", fail)
    record = memory.record(source, OURS, 3e6, STAMP, "r/memory")
    assert record.metrics["peak_b"].median is None
    assert "timed out" in (record.metrics["peak_b"].reason or "")


def test_unknown_names_are_refused_before_anything_loads(tmp_path: Path) -> None:
    source = open_source(None, random_weights=False, cache=tmp_path)
    with pytest.raises(UsageError, match="unknown scheme"):
        lineup.entries(source, ("cpu",), (), ("int5",), None)
    named = [e.name for e in lineup.entries(source, ("cpu",), ("llama.cpp",), ("none", "int4"), None)]
    assert named == ["cpu none", "cpu int4", "llama.cpp F32", "llama.cpp Q4_0"]
