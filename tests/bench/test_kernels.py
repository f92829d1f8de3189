"""`bench.kernels`: stages over cold copies, checked against the reference, at the cost that is counted."""

import json
from pathlib import Path

import pytest
import torch

from bench import contender, kernels, stages, timing
from bench.kernels import main
from bench.record import read
from bench.stages import COSTS, Subject, last_level_cache, prepare, subject
from bench.timing import WrongAnswer
from engine.config import load_config
from engine.locate import BUNDLED
from kernels import cost
from kernels.cost import RowWork
from kernels.cpu.backend import CpuBackend
from kernels.reference import TorchBackend

CPU = torch.device("cpu")
CONFIG = load_config(BUNDLED)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    monkeypatch.setattr(stages, "last_level_cache", lambda device: 200_000)
    monkeypatch.setattr(kernels, "PRODUCT", 64)
    monkeypatch.setattr(contender, "cores", lambda: 1)


def test_every_stage_is_timed_in_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "records.jsonl"
    small = ["--rounds", "2", "--rows", "1,2", "--contexts", "8,24", "--reader-megabytes", "1"]
    assert main([*small, "--backends", "cpu,torch", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    records = [r for r in read([out]) if r.benchmark == "kernels"]
    cells = {(r.arm.name, r.case.phase, r.case.rows, r.case.context) for r in records}
    assert len(cells) == len(records) == 2 * (4 * 2 + 2 * 2 * 2)  # two of them depend on the context
    for record in records:
        assert record.case.shape_only and record.case.shape
        assert (record.derived["roofline_share"].value or 0) > 0
    assert json.loads(printed.splitlines()[-1])["records"] == len(list(read([out])))
    assert "| mlp 352×128 | cpu none | 2 rows, context 8 |" in printed


def test_packed_stages_run_on_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--rounds", "2", "--rows", "1", "--contexts", "8", "--reader-megabytes", "1", "--stages", "mlp"]
    assert main([*small, "--backend", "torch", "--quantize", "int8,int4"]) == 0
    printed = capsys.readouterr().out
    assert "| torch int8 |" in printed and "| torch int4 |" in printed


@pytest.mark.parametrize("scheme", ["none", "int8", "int4"])
@pytest.mark.parametrize("stage", COSTS)
def test_bytes_are_those_of_the_weights_that_a_stage_reads(stage: str, scheme: str) -> None:
    given = subject(CONFIG, torch.bfloat16, scheme)
    held = {"layer": given.layer, "head": given.head}["head" if stage == "head_logits" else "layer"]
    weights = sum(getattr(held, name).nbytes for name in stages.READ[stage])
    cache = 2 * 2 * 32 * 2  # keys and values · heads · dims · bytes of a position
    positions = {"attention_input": 3, "attention": 3 * 24, "layers": 3 * 25}.get(stage, 0)
    padding = 1.7 if stage == "head_logits" else 1.1  # 20 rows fill 32
    expected = weights + cache * positions
    assert given.cost(stage, 3, 24).bytes <= expected <= padding * given.cost(stage, 3, 24).bytes
    work = [RowWork(1, 24)] * 3
    assert given.cost(stage, 3, 24) == COSTS[stage](given.dims(), work)


def test_the_stages_of_a_layer_cost_what_the_forward_does() -> None:
    given = subject(CONFIG, torch.bfloat16, "none")
    each = [given.cost(stage, 2, 50) for stage in COSTS if stage != "layers"]
    whole = cost.forward(given.dims(), [RowWork(1, 50)] * 2)
    assert given.cost("layers", 2, 50) + given.cost("head_logits", 2, 50) == whole
    assert (sum(c.bytes for c in each), sum(c.flops for c in each)) == (whole.bytes, whole.flops)


@pytest.mark.parametrize("stage", COSTS)
def test_copies_are_apart_and_exceed_the_cache(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is asked for other memory at every call, for at least three times the cache."""
    given = subject(CONFIG, torch.bfloat16, "none")
    backend = TorchBackend(CPU)
    seen: list[int] = []
    real = getattr(TorchBackend, stage)

    def spy(self: TorchBackend, *arguments: object) -> object:
        for argument in arguments:
            weights = getattr(argument, "weights", None)
            if weights is not None and stages.READ[stage]:
                seen.append(getattr(weights, stages.READ[stage][0]).data_ptr())
            if stage == "attention" and hasattr(argument, "keys"):
                seen.append(argument.keys.data_ptr())
            if stage == "layers" and isinstance(argument, list):
                seen.extend(layer.weights.down.data_ptr() for layer in argument)
        return real(self, *arguments)

    made = prepare(backend, given, stage, 2, 24, cache_bytes=100_000, name="torch none")
    monkeypatch.setattr(TorchBackend, stage, spy)
    made.timed.run()
    assert len(seen) == len(set(seen)) == made.timed.repeats
    assert made.timed.repeats * given.cost(stage, 2, 24).bytes >= 3 * 100_000
    assert "warm" not in made.note


def test_weights_too_small_to_be_cold_are_called_warm() -> None:
    given = subject(CONFIG, torch.bfloat16, "none")
    made = prepare(TorchBackend(CPU), given, "head_logits", 1, 8, cache_bytes=1 << 30, name="a")
    assert made.timed.repeats == stages.MOST_COPIES and made.note.endswith("warm: they fit into the cache")


class Wrong(TorchBackend):
    """Forgets the last feature of the MLP."""

    def mlp(self, x: torch.Tensor, layer: object) -> torch.Tensor:
        out = super().mlp(x, layer)  # type: ignore[arg-type]
        out[:, -1] = x[:, -1]
        return out


def test_a_wrong_answer_is_found_and_a_right_one_passes() -> None:
    given = subject(CONFIG, torch.bfloat16, "none")
    for stage in COSTS:
        prepare(CpuBackend(CPU), given, stage, 3, 24, cache_bytes=1000, name="a").timed.check()
    with pytest.raises(WrongAnswer, match="off by"):
        prepare(Wrong(CPU), given, "mlp", 3, 24, cache_bytes=1000, name="a").timed.check()


def test_a_wrong_stage_is_skipped_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "load", lambda name, device: Wrong(device))
    small = ["--rounds", "2", "--rows", "1", "--contexts", "8", "--reader-megabytes", "1", "--dtype", "bf16"]
    assert main([*small, "--backend", "torch"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["skipped"]) == ["torch none mlp, 1 rows", "torch none layers, 1 rows"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--stages", "warp"], "no stage holds 'warp'"),
        (["--backends", "warp"], "unknown backend"),
        (["--quantize", "int3"], "unknown scheme"),
        (["--rounds", "1"], "at least 2 rounds"),
        (["--model", "preset:none"], "unknown preset"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_the_last_level_cache_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert last_level_cache(CPU) >= 1 << 18
    assert isinstance(subject(CONFIG, torch.float32, "none"), Subject)
