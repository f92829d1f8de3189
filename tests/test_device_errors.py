"""A device that fails ends in one clear line, with the text so far; torch, CUDA and Triton are played."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cache import KVCache
from engine.device_errors import device_failures, failure_line, why_no_cuda
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.placement import choose_backend, choose_device
from engine.steps import StopReason
from tests.cli import PROMPT, run
from tests.late_loop import LateLoop, run_late
from tests.letters import CountedMeter

QUIETLY = (PROMPT, "--quiet", "--energy-source", "estimate", "--backend", "torch")
PROMPT_IDS = [5, 6, 7, 8]
NO_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.50 "
    "GiB is free. Including non-PyTorch memory, this process has 77.60 GiB memory in use."
)
LOST = torch.AcceleratorError(
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
)
LAUNCH = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")


class PTXASError(Exception):
    """As Triton's: what it raises for a capability that its assembler does not know."""


PTXASError.__module__ = "triton.runtime.errors"
UNKNOWN_CHIP = PTXASError(
    "PTXAS error: Internal Triton PTX codegen error\n`ptxas` stderr:\nunknown arch sm_130\n"
)

LINES = [
    (
        NO_MEMORY,
        "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ",
    ),
    (MemoryError(), "out of memory"),
    (
        RuntimeError("[enforce fail at a.cpp:1] . DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "out of mem",
    ),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "out of memory: ",
    ),
    (RuntimeError("Triton Error [CUDA]: out of memory"), "out of memory: Triton Error [CUDA]: out of memory"),
    (LOST, "the device failed: CUDA error: unspecified launch failure"),
    (LAUNCH, "the device failed: Triton Error [CUDA]: an illegal memory access was encountered"),
    (RuntimeError("CUDA driver error: device not ready"), "the device failed: CUDA driver error"),
    (UNKNOWN_CHIP, "a kernel cannot be compiled or launched for this device: unknown arch sm_130"),
    (
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update"),
        "CUDA cannot be used: The NVIDIA driver on your system is too old (found version 11040)",
    ),
    (
        RuntimeError("Found no NVIDIA driver on your system. Please check that you have one"),
        "CUDA cannot be used: Found no NVIDIA driver on your system",
    ),
]


@pytest.mark.parametrize(("error", "line"), LINES, ids=lambda value: type(value).__name__)
def test_what_is_raised_becomes_one_line(error: Exception, line: str) -> None:
    found = failure_line(error)
    assert found is not None and found.startswith(line)
    assert "\n" not in found and "Please" not in found and "Including" not in found


def test_errors_of_other_kinds_are_left_alone() -> None:
    for error in (
        RuntimeError("shapes do not match"),
        ValueError("CUDA error"),
        KeyError("x"),
        AssertionError(),
    ):
        assert failure_line(error) is None
        with pytest.raises(type(error)), device_failures("while testing"):
            raise error
    with pytest.raises(UsageError, match="as it was"), device_failures("while testing"):
        raise UsageError("as it was") from LOST


def test_the_cause_of_a_broken_capture_is_told() -> None:
    """Leaving a capture that ran out of memory raises an error of its own."""

    def capture() -> None:
        try:
            raise NO_MEMORY
        finally:
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    with pytest.raises(TokenjouleError) as caught:
        device_failures("while testing")(capture)()
    assert str(caught.value).startswith("out of memory: ")
    assert str(caught.value).endswith("is free (while testing)")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("engine.engine.load_weights", NO_MEMORY),
        ("engine.engine.Model", LOST),
        ("engine.model.new_pool", NO_MEMORY),
        ("engine.model.Model.device_loop", NO_MEMORY),  # where steps are captured
        ("engine.model.Model.device_loop", UNKNOWN_CHIP),
    ],
    ids=str,
)
def test_a_device_that_fails_while_loading_gets_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(place, fails)
    status, out, err = run(capsys, *QUIETLY)
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    told = failure_line(error)
    assert told is not None and line.startswith(f"tokenjoule: {told} (")
    assert line.endswith(("while loading)", "positions)"))


class FailingLoop(LateLoop):
    """A device that fails where `error_in` says, at the step of that number."""

    error: Exception = LOST
    error_in = "launch"
    at = 4

    def _fail_in(self, place: str) -> None:
        if self.error_in == place and len(self.launched) >= self.at - (place == "launch"):
            raise self.error

    def launch(self, steps: int) -> None:
        self._fail_in("launch")
        super().launch(steps)

    def collect(self) -> Any:
        self._fail_in("collect")
        return super().collect()


@pytest.fixture
def engine(letters_directory: Path) -> Any:
    meter: Any = CountedMeter(watts=20.0)
    with Engine.load(letters_directory, backend="torch", meter=meter) as engine:
        yield engine


def fail(monkeypatch: pytest.MonkeyPatch, model: Model | type[Model], **settings: Any) -> None:
    """Requests of the model go through loops that fail."""

    def device_loop(*given: Any, keep_logits: bool, **named: Any) -> LateLoop:
        owner, cache = (model, given[0]) if isinstance(model, Model) else given[:2]
        assert isinstance(cache, KVCache)
        loop = FailingLoop(owner, cache, keep_logits=keep_logits)
        for name, value in settings.items():
            setattr(loop, name, value)
        return loop

    monkeypatch.setattr(model, "device_loop", device_loop)


@pytest.mark.parametrize("place", ["launch", "collect"])
@pytest.mark.parametrize("error", [LOST, LAUNCH, NO_MEMORY], ids=lambda value: type(value).__name__)
def test_a_device_lost_in_mid_run_leaves_the_text(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    plain = engine.generate(PROMPT_IDS, max_new_tokens=12).token_ids
    with monkeypatch.context() as patch:
        fail(patch, engine.model, error=error, error_in=place)
        result = engine.generate(PROMPT_IDS, max_new_tokens=12)
    kept = len(result.token_ids)
    assert 2 <= kept <= 4 and result.token_ids == plain[:kept]
    assert result.text == engine.tokenizer.decode(list(result.token_ids))
    assert result.stop.reason is StopReason.ERROR
    assert result.error == failure_line(error)
    again = engine.generate(
        PROMPT_IDS, max_new_tokens=12
    )  # here the fake is gone; a lost GPU would say so again
    assert (again.error, again.token_ids) == (None, plain)


def test_several_rows_all_keep_theirs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, engine.model, error_in="collect")
    results = engine.generate_many([PROMPT_IDS, [9, 10]], max_new_tokens=12)
    assert [result.stop.reason for result in results] == [StopReason.ERROR] * 2
    assert all(len(result.token_ids) >= 2 and result.error for result in results)


def test_the_command_prints_the_text_so_far_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = run(capsys, *QUIETLY)
    fail(monkeypatch, Model, error_in="collect", at=8)
    status, out, err = run(capsys, *QUIETLY)
    assert status == 1
    assert 0 < len(out.strip()) < len(whole.strip()) and whole.startswith(out.strip())
    assert err == "tokenjoule: the device failed: CUDA error: unspecified launch failure\n"
    status, out, err = run(capsys, *QUIETLY, "--json")
    result = json.loads(out)
    assert status == 1 and len(err.splitlines()) == 1
    assert result["stop"]["reason"] == "error" and whole.startswith(result["text"]) and result["text"]


def test_running_ahead_is_not_waited_for_on_a_lost_device(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = run_late(engine, monkeypatch, fails_at=6)
    result = engine.generate(PROMPT_IDS, max_new_tokens=24)
    assert result.stop.reason is StopReason.ERROR and loops[0].is_waiting


# What device is chosen, or why none.


def cuda(monkeypatch: pytest.MonkeyPatch, count: int, problem: str = "") -> None:
    """A torch built for CUDA that finds `count` devices; `problem` is what it says of the driver."""

    def is_available() -> bool:
        if problem.startswith("The NVIDIA driver"):
            warnings.warn(f"CUDA initialization: {problem}", stacklevel=2)
        return count > 0

    def init() -> None:
        if problem:
            raise RuntimeError(problem)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "init", init)


OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by …"
NONE = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
)


@pytest.mark.parametrize("device", ["2", 2, -1, "99999999999999999999"])
def test_a_device_out_of_range_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, device: str | int) -> None:
    cuda(monkeypatch, 2)
    with pytest.raises(UsageError, match=r"there is no CUDA device -?\d+; there are 2, counted from 0"):
        choose_device(device)
    assert choose_device("1") == torch.device("cuda", 1)
    assert choose_device(None) == torch.device("cuda", 0)


@pytest.mark.parametrize("device", ["-1", "cuda", "", "0.0", "¹"])
def test_what_is_no_device_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    cuda(monkeypatch, 2)
    status, out, err = run(capsys, PROMPT, "--device", device)
    assert (status, out) == (2, "")
    assert f"device must be a CUDA index or cpu, not {device!r}" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("problem", "said"),
    [(OLD, "is too old (found version 11040)"), (NONE, "no NVIDIA driver on your system")],
)
def test_a_missing_or_old_driver_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, problem: str, said: str
) -> None:
    cuda(monkeypatch, 0, problem)
    status, out, err = run(capsys, PROMPT, "--quiet", "--device", "0")
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("tokenjoule: there is no CUDA device: ") and line.endswith(said)
    with pytest.raises(TokenjouleError, match="backend gpu: runs on a CUDA device, not on cpu; ") as caught:
        choose_backend("gpu", torch.device("cpu"), torch.bfloat16)
    assert said in str(caught.value) and "Please" not in str(caught.value)


def test_the_cpu_is_not_taken_in_silence_where_a_driver_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 0, OLD)
    with pytest.warns(UserWarning, match="^running on the CPU: The NVIDIA driver on your system is too old"):
        assert choose_device(None) == torch.device("cpu")
    cuda(monkeypatch, 0, NONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device(None) == torch.device("cpu")
        assert choose_device("cpu") == torch.device("cpu")


def test_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_cuda() == f"torch {torch.__version__} is built without CUDA"
    cuda(monkeypatch, 0)
    assert why_no_cuda() == "the driver shows none"
