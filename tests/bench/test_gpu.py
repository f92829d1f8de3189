"""`bench.gpu`: its parts on a CPU at the smallest sizes, and what becomes of a part that fails or hangs."""

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import gpu, timing
from bench.cuda import run_part
from bench.cuda.parts import LIMIT_S, PARTS, Part, chosen
from bench.experiments.questions import Questions
from bench.gpu import Ended, main
from bench.record import Record, read
from engine.errors import TokenjouleError, UsageError
from tests.bench.records import STAMP
from tests.energy.fake_nvml import UUID, FakeNvml

NAMES = [part.name for part in PARTS]
# `kernels` is of Triton alone: it runs in the interpreter, in `tests/kernels/interpreted/test_gpu_bench.py`.
# `sensor` records for some seconds at the least: its pieces are tested below.
# `energy_truth` needs a source that ticks: it has a test of its own below.
# `fidelity` reads 1400 tokens one by one; `figures` runs every cell of four figures twice.
SLOW = ("ablations", "quantized", "prefill", "fidelity", "figures")
ON_A_CPU = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in NAMES
    if name not in ("kernels", "sensor", "decode", "energy_truth")
]


def run(name: str, out: Path, *more: str, source: str = "estimate") -> list[Record]:
    small = ["--device", "cpu", "--backend", "torch", "--scale", "tiny", "--energy-source", source]
    assert run_part.main([name, *small, "--out", str(out), "--run", "r1", *more]) == 0
    return list(read([out]))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)


@pytest.mark.parametrize("name", ON_A_CPU)
def test_a_part_runs_and_every_record_is_of_the_run(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "figures":  # its questions are MT-Bench's
        request.getfixturevalue("shared_data")
    is_whole(name, run(name, tmp_path / "records.jsonl", "--command", "python -m bench.gpu --only x"))


def is_whole(name: str, records: list[Record]) -> None:
    own = [r for r in records if r.benchmark == f"gpu/{name}"]
    assert own and {r.stamp.run for r in records} == {"r1"}
    assert own[0].stamp.command == ("python", "-m", "bench.gpu", "--only", "x")
    measured = [r for r in own if any(metric.samples for metric in r.metrics.values())]
    unmeasured = {r.arm.name for r in own} - {r.arm.name for r in measured}
    assert unmeasured <= {"transformers compiled"}
    for record in (r for r in measured if "error" in r.metrics):
        assert record.metrics["error"].median == pytest.approx(0, abs=1e-3)


def test_a_step_beside_transformers_is_in_one_group_with_the_readers(tmp_path: Path) -> None:
    records = run("decode", tmp_path / "records.jsonl", "--command", "python -m bench.gpu --only x")
    is_whole("decode", records)
    beside = [r for r in records if "beside transformers" in r.group]
    arms = {r.arm.name for r in beside if r.group == beside[0].group}
    assert {"torch none", "transformers eager"} < arms and any(name.startswith("read: ") for name in arms)
    assert all(r.benchmark in ("gpu/decode", "gpu/bandwidth") for r in records)


def test_single_requests_are_compared_with_their_repeats(tmp_path: Path) -> None:
    """Whether they agree is not judged here: on a busy machine one request may take twice another's time."""
    profile = tmp_path / "fast.json"
    profile.write_text('{"period_s": 0.004, "lag_s": 0.001, "window_s": 0.001}')
    command = ("--command", "python -m bench.gpu --only x")
    records = run("energy_truth", tmp_path / "truth.jsonl", *command, source=f"simulated:{profile}")
    assert {r.benchmark for r in records} == {"gpu/energy_truth"} and {r.stamp.run for r in records} == {"r1"}
    compared = [r for r in records if r.case.phase.startswith("comparison: ")]
    assert len(compared) == 8 and all(r.derived["truth"].value for r in compared)
    assert {r.case.phase for r in records if "error" in r.metrics} >= {"comparison", "sham", "differencing"}
    assert all(r.derived["truth"].measured is False for r in compared)


def test_the_figures_are_of_the_five_smallest_presets_and_kept_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cuda import figures
    from bench.cuda.setting import FULL
    from engine.config import parse_config
    from engine.presets import PRESETS
    from engine.tensors import expected_shapes

    def numbers(name: str) -> int:
        shapes = expected_shapes(parse_config(PRESETS[name], {}, name))
        return sum(math.prod(shape) for shape in shapes.values())

    smallest = sorted(PRESETS, key=numbers)[:5]
    assert list(FULL.architectures) == [f"preset:{name}" for name in smallest]
    monkeypatch.setattr(figures, "read_questions", lambda path, turn: Questions(("one", "two"), 1, "two"))

    def failing(*_: object) -> None:
        raise TokenjouleError("no memory left")

    monkeypatch.setattr(figures, "measure", failing)
    out = tmp_path / "records.jsonl"
    with pytest.raises(AssertionError):
        run("figures", out)
    assert [r.metrics["run_s"].reason for r in read([out])] == ["TokenjouleError: no memory left"]


def test_groups_of_a_part_may_be_named(tmp_path: Path) -> None:
    records = run("smoke", tmp_path / "records.jsonl", "--groups", "device")
    assert [r.case.phase for r in records] == ["device"]


def test_a_group_that_fails_is_a_record_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cuda import smoke

    def broken(setting: object) -> None:
        raise RuntimeError("planted\nmore of it")

    monkeypatch.setattr(smoke, "meter", broken)
    records = run("smoke", tmp_path / "records.jsonl", "--groups", "meter,device")
    assert [r.case.phase for r in records] == ["meter", "device"]
    assert records[0].metrics["error"].reason == "RuntimeError: planted"


def test_a_broken_device_takes_its_process_and_the_other_groups_get_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cuda import checks, smoke

    def started(command: list[str], *, check: bool, timeout: float) -> None:
        assert command[:3] == [sys.executable, "-m", "bench.cuda.run_part"] and timeout > 1
        assert run_part.main(command[3:]) == 0

    monkeypatch.setattr(smoke, "subprocess", SimpleNamespace(run=started))
    monkeypatch.setattr(checks, "is_broken", lambda setting: True)
    monkeypatch.setattr(smoke, "_generate", lambda *_: (_ for _ in ()).throw(RuntimeError("illegal address")))
    records = run("smoke", tmp_path / "records.jsonl", "--groups", "tokens,device")
    assert [(r.case.phase, bool(r.metrics["error"].samples)) for r in records] == [
        ("tokens", False),
        ("device", True),
    ]
    assert {r.stamp.run for r in records} == {"r1"}, "the new process goes on with the same run"


def test_a_device_that_breaks_outside_of_a_check_does_not_cost_the_groups_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cuda import smoke

    asked: list[list[str]] = []
    monkeypatch.setattr(
        smoke, "subprocess", SimpleNamespace(run=lambda command, **_: asked.append(list(command)))
    )
    monkeypatch.setattr(smoke, "is_broken", lambda setting: True)

    def broken(setting: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(smoke, "meter", broken)
    records = run("smoke", tmp_path / "records.jsonl", "--groups", "meter,device")
    assert [r.case.phase for r in records] == ["meter"]
    (command,) = asked
    assert command[command.index("--groups") + 1] == "device"


def test_a_wrong_answer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cuda import smoke
    from bench.gpu_table import holds

    tokens = iter([[1, 2, 3], [1, 2, 4], [1, 2, 3], [1, 2, 3]])
    monkeypatch.setattr(smoke, "_generate", lambda *_: next(tokens))
    records = run("smoke", tmp_path / "records.jsonl", "--groups", "tokens")
    assert [holds(r) for r in records] == [False, True]


def test_the_parts_are_listed_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in NAMES) and "not measured" in printed
    assert main(["--list", "--only", "rows"]) == 0
    assert "smoke" not in capsys.readouterr().out
    assert all(part.expected_s <= LIMIT_S for part in PARTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "finds no CUDA device" in said[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--only", "warp"], "unknown part 'warp'; known: smoke"), (["--minutes", "0"], "must be positive")],
)
def test_wrong_usage_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_parts_come_in_the_order_asked_for() -> None:
    assert [part.name for part in chosen(("rows", "smoke"))] == ["rows", "smoke"]
    assert chosen(()) == PARTS
    with pytest.raises(UsageError, match="unknown part"):
        chosen(("smoke", "warp"))


def test_parts_write_where_the_caller_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu, "stamp", lambda *_: STAMP)
    commands: list[list[str]] = []

    def ended(command: list[str], limit_s: float) -> Ended:
        commands.append(command)
        return Ended(1.0, None)

    monkeypatch.setattr(gpu, "run_part", ended)
    assert main(["--only", "rows", "--out", "r.jsonl", "--minutes", "2"]) == 0
    options = run_part.parser().parse_args(commands[0][3:])
    assert options.out == tmp_path / "r.jsonl" and options.out.exists()
    assert (options.part, options.device, options.run) == ("rows", "cuda:0", STAMP.run)
    assert 100 < options.seconds <= 120 and options.scale == "full" and options.backend == "gpu"
    assert main(["--device", "1"]) == 2


def planted(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_how_a_process_ended_is_told() -> None:
    assert gpu.run_part(planted("print('ok')"), 20).reason is None
    failed = gpu.run_part(planted("import sys; print('a line', file=sys.stderr); sys.exit(3)"), 20)
    assert failed.reason == "status 3; last: a line"
    crashed = gpu.run_part(planted("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), 20)
    assert crashed.reason == "signal 11; last: it said nothing"


def test_a_part_that_hangs_is_ended_with_all_it_started() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended = gpu.run_part(planted(child), 1.0)
    assert ended.reason is not None and ended.reason.startswith("ended by its limit of 1 s")
    assert ended.elapsed_s < 10


def test_a_run_that_is_terminated_takes_its_part_with_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    child = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def terminate() -> None:
        until_s = time.monotonic() + 15
        while not (told.exists() and told.read_text()) and time.monotonic() < until_s:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    waiting = threading.Thread(target=terminate)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody listens for it"))
    waiting.start()
    try:
        with pytest.raises(SystemExit) as left:
            gpu.run_part(planted(child), 20)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "what was there before is back"
    finally:
        waiting.join()
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):  # it would have had the device for itself, without a limit
        os.kill(int(told.read_text()), 0)


def test_every_part_leaves_a_record_also_the_ones_that_do_not_come_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def ended(command: list[str], limit_s: float) -> Ended:
        commands.append(command)
        return Ended(3.0, "signal 9; last: planted" if "decode" in command else None)

    monkeypatch.setattr(gpu, "run_part", ended)
    out = tmp_path / "results.jsonl"
    parts = (Part("smoke", 1, "a"), Part("decode", 1, "b"), Part("rows", 1, "c"))
    assert gpu.run(parts, STAMP, out, ["--out", str(out)], None) == 1
    reasons = [r.metrics["run_s"].reason for r in read([out])]
    assert reasons == [None, "signal 9; last: planted", None]
    assert [command[3] for command in commands] == ["smoke", "decode", "rows"]
    assert gpu.run(parts[:1], STAMP, out, [], 5.0) == 1, "five seconds are too few to begin"
    last = list(read([out]))[-1]
    assert last.metrics["run_s"].reason == "not begun: 5 s of the time given were left"
    assert json.loads(out.read_text().splitlines()[-1])["benchmark"] == "gpu/part"


def test_the_commit_may_be_told_where_there_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import stamp

    monkeypatch.setattr(stamp, "__file__", str(tmp_path / "bench" / "stamp.py"))
    monkeypatch.setenv(stamp.COMMIT, "0123456789abcdef")
    found = stamp.stamp("bench.gpu", [], torch.device("cpu"), run="r9")
    assert (found.commit, found.dirty, found.run) == ("0123456789abcdef", None, "r9")
    assert "TOKENJOULE_COMMIT" in found.reasons["dirty"]
    monkeypatch.delenv(stamp.COMMIT)
    assert stamp.stamp("bench.gpu", [], torch.device("cpu")).reasons["commit"] == "not a git checkout"


def test_a_driver_that_tells_no_clock_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import stamp

    nvml = FakeNvml()
    nvml.clocks_mhz = None  # as on a slice of a GPU
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(stamp, "uuid_of_cuda_device", lambda index: UUID)
    monkeypatch.setattr(stamp, "device_name", lambda device: "a GPU")
    found = stamp.stamp("bench.gpu", [], torch.device("cuda", 0))
    assert (found.clock_mhz, found.versions["driver"]) == (None, "999.99")
    assert "clock_mhz" in found.reasons and "driver" not in found.reasons
    nvml.clocks_mhz = {1: 1_500, 2: 2_600}
    assert stamp.stamp("bench.gpu", [], torch.device("cuda", 0)).clock_mhz == (1500.0,)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert stamp.stamp("bench.gpu", [], torch.device("cuda", 0)).versions["driver"] is None
