"""The parts of `bench.gpu` that are about Triton, on its interpreter at the smallest sizes."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import timing
from bench.contender import fill
from bench.cuda import ablations, decode, kernels, overhead, quantized, rows, smoke
from bench.cuda.device_source import DeviceSource
from bench.cuda.loop_contender import ROOM, GpuContender
from bench.cuda.readers import Cut, read
from bench.cuda.readers import __name__ as readers_module
from bench.cuda.setting import TINY, Setting, near
from bench.cuda.stage_peers import attention_peers
from bench.cuda.stage_work import STAGES, stage_work
from bench.engine_contender import EngineContender
from bench.forced import captured_decode
from bench.forced import decode as forced_decode
from bench.gpu_table import holds
from bench.passages import Passage
from bench.record import Record
from bench.record import read as read_records
from bench.stages import subject
from bench.stamp import stamp
from engine.engine import Engine
from kernels.api import load as load_backend
from kernels.gpu import shared_prefix
from tests import letters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("letters")
    letters.write(path, "llama-shallow")
    return path


@pytest.fixture
def setting(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    monkeypatch.setattr(f"{readers_module}.CUTS", ())
    scale = replace(TINY, models=(str(path),), contexts=(5,), steps=1, prompt=9, new_tokens=3)
    where = stamp("bench.gpu", [], CPU, run="r1")
    out = tmp_path / "records.jsonl"
    return Setting("smoke", CPU, "gpu", scale, where, "estimate", out, time.monotonic() + 600)


def records(setting: Setting) -> list[Record]:
    assert setting.out is not None
    return list(read_records([setting.out]))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_checked_against_the_reference(stage: str, setting: Setting) -> None:
    smoke.kernel(setting, stage)
    assert [holds(r) for r in records(setting)] == [True]


@pytest.mark.parametrize("stage", ["attention", "down", "head_select"])
def test_a_wrong_stage_does_not_pass(stage: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cuda import stage_work

    real = getattr(stage_work._Bench, "_layer" if stage == "down" else f"_{stage.partition('_')[0]}")

    def planted(self: Any) -> Any:
        work = real(self)

        def expected() -> torch.Tensor:
            found = work.expected().clone()
            found.view(-1)[-1] += 0.1 * found.abs().max()
            return found

        return replace(work, expected=expected)

    name = "_layer" if stage == "down" else f"_{stage.partition('_')[0]}"
    monkeypatch.setattr(stage_work._Bench, name, planted)
    smoke.kernel(setting, stage)
    assert [holds(r) for r in records(setting)] == [False]


def test_prefill_and_graphs_are_checked(setting: Setting) -> None:
    smoke.prefill(setting)
    smoke.graph(setting)
    assert [holds(r) for r in records(setting)] == [True, True, True]


def test_a_reader_sums_all_it_reads() -> None:
    words = torch.randint(-(2**31), 2**31 - 1, (8192,), dtype=torch.int32)
    out = torch.zeros(3, dtype=torch.int64)
    read(words, out, Cut(1024, 2, 4, 1))
    assert int(out.sum()) & 0xFFFFFFFF == int(words.sum(dtype=torch.int64)) & 0xFFFFFFFF
    with pytest.raises(ValueError, match="no multiple"):
        read(words[:1000], out, Cut(1024, 2, 4, 1))


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_loop_chooses_the_tokens_of_the_reference_and_rolls_back(path: Path, at_once: int) -> None:
    source = DeviceSource.open(str(path), CPU, torch.float32)
    held = fill(source.config, source.dtype, 2, 9, room=2 + ROOM)
    expected = EngineContender(source, "torch", "none").start(held, 2)
    first = expected.logits()
    wanted = []
    for _ in range(2):
        expected.step()
        wanted.append(tuple(expected._tokens))
    expected.rollback()
    found = GpuContender(source, "none", graph_steps=at_once).start(held, 2)
    assert torch.allclose(found.logits(), first, atol=1e-4)
    found.ready()
    for _ in range(2):
        found.step()
    assert found.drain() == wanted
    found.rollback()
    assert [held.cache.length(row) for row in held.ids] == [9, 9]


def test_a_shared_prompt_is_read_and_counted_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "_LAUNCH_BYTES", 1)
    source = DeviceSource.open(str(path), CPU, torch.float32)
    held = fill(source.config, source.dtype, 2, 41, room=1 + ROOM, shared=True)
    reference = EngineContender(source, "torch", "none").start(held, 1)
    first, every_row_bytes = reference.logits(), reference.bytes
    reference.rollback()
    found = GpuContender(source, "none").start(held, 1)
    assert torch.allclose(found.logits(), first, atol=1e-4)
    found.ready()
    assert found.note == "32 shared positions read once"
    config = source.config
    again = 32 * 2 * config.n_kv_heads * config.head_dim * 4 * config.n_layers
    assert found.bytes == every_row_bytes - again


def test_forced_text_goes_through_captured_steps(path: Path) -> None:
    passage = Passage((5, 6, 7, 8, 9), judged=2)
    meter: Any = letters.CountedMeter(watts=20.0)
    with Engine.load(path, backend="gpu", device="cpu", meter=meter) as engine:
        captured, plain = captured_decode(engine.model, passage), forced_decode(engine.model, passage)
    assert captured.shape == (3, 97)
    assert torch.allclose(captured, plain, atol=1e-4)


def test_peers_of_attention_are_given_what_our_kernel_is_given(path: Path) -> None:
    source = DeviceSource.open(str(path), CPU, torch.bfloat16)
    given = subject(source.config, torch.bfloat16, "none")
    backend = load_backend("gpu", CPU)
    work = stage_work(backend, given, "attention", 3, 21, cache_bytes=1000)  # type: ignore[arg-type]
    work.call(0)
    answers = {}
    for peer in attention_peers(work, source.config.attention_shape(0), compiles=False):
        if peer.name in ("SDPA", "SDPA math"):  # the others are of CUDA devices
            answers[peer.name] = peer.call(0)
            error, allowed = near(answers[peer.name], peer.expected(), work.share)
            assert error <= allowed
    assert len(answers) == 2 and near(work.answer(), answers["SDPA"], work.share)[0] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("part", [decode, ablations, quantized, rows, overhead, kernels])
def test_a_part_runs_with_our_kernels(part: Any, setting: Setting) -> None:
    name = part.__name__.rpartition(".")[2]
    setting = replace(setting, part=name)
    part.run(setting)
    found = [r for r in records(setting) if r.benchmark == f"gpu/{name}"]
    measured = {r.arm.name for r in found if any(metric.samples for metric in r.metrics.values())}
    missing = {r.arm.name for r in found} - measured
    assert missing <= {"transformers compiled", "SDPA flash", "SDPA efficient", "SDPA cudnn"}
    assert any(name.startswith("gpu ") or name == "meter" for name in measured)
    assert all(holds(r) for r in found if "error" in r.metrics)
