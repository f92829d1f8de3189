"""Which backend runs where nobody names one, and what is refused before anything is loaded."""

from types import SimpleNamespace

import pytest
import torch

from engine.config import parse_config
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.placement import check_memory, choose_backend
from engine.presets import PRESETS
from engine.schemes import SCHEMES

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "dtype", "name"),
    [
        ("cpu", torch.bfloat16, "cpu"),
        ("cpu", torch.float32, "cpu"),
        ("cpu", torch.float16, "torch"),
        ("cuda:0", torch.bfloat16, "torch"),
    ],
)
def test_the_backend_that_is_chosen(device: str, dtype: torch.dtype, name: str) -> None:
    assert choose_backend("auto", torch.device(device), dtype).name == name
    assert choose_backend("torch", torch.device(device), dtype).name == "torch"


@pytest.mark.parametrize(("dtype", "backend"), [("fp16", "torch"), ("bf16", "cpu"), ("fp32", "cpu")])
def test_every_dtype_runs_on_a_cpu(dtype: str, backend: str) -> None:
    with Engine.load(dtype=dtype, device="cpu", energy_source="simulated") as engine:
        assert engine.origin.backend == backend
        assert engine.generate("2+3=").answer == "5"


def test_a_backend_that_cannot_run_says_so() -> None:
    with pytest.raises(UsageError, match="unknown backend 'tpu'"):
        choose_backend("tpu", CPU, torch.float32)
    with pytest.raises(TokenjouleError, match="backend cpu: runs on a CPU, not on cuda:0"):
        choose_backend("cpu", torch.device("cuda:0"), torch.float32)
    with pytest.raises(TokenjouleError, match="backend gpu: runs on a CUDA device, not on cpu"):
        choose_backend("gpu", CPU, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_driver_the_gpu_backend_says_so() -> None:
    with pytest.raises(TokenjouleError, match="finds no CUDA device; its build"):
        choose_backend("gpu", torch.device("cuda:0"), torch.bfloat16)


def test_an_old_gpu_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(major=7, minor=5, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: old)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    device = torch.device("cuda:0")
    assert choose_backend("auto", device, torch.bfloat16).name == "torch"
    with pytest.raises(TokenjouleError, match=r"Tesla T4 has compute capability 7\.5, 8\.0 is the least"):
        choose_backend("gpu", device, torch.bfloat16)
    monkeypatch.setattr(old, "major", 9)
    assert choose_backend("auto", device, torch.bfloat16).name == "gpu"


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_half_precision_on_the_cpu_backend_is_refused_packed_or_not(quantize: str | None) -> None:
    with pytest.raises(TokenjouleError, match="float16; it takes bf16 and fp32"):
        Engine.load(backend="cpu", dtype="fp16", quantize=quantize, energy_source="simulated")


def test_weights_are_counted_as_they_will_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 1B: 2.47 GB in bf16, 1.26 in int8, 0.81 in int4."""
    config = parse_config(PRESETS["llama-3.2-1b"], {}, "test")
    forms = {None: 2.471e9, "int8": 1.255e9, "int4": 0.814e9}
    for name, size in forms.items():
        scheme = SCHEMES[name] if name else None
        monkeypatch.setattr("engine.placement.available_bytes", lambda device, size=size: int(size * 1.001))
        check_memory(config, torch.bfloat16, scheme, CPU)
        monkeypatch.setattr("engine.placement.available_bytes", lambda device, size=size: int(size * 0.999))
        with pytest.raises(TokenjouleError, match=f"GB in {name or 'bfloat16'}, .* are free on cpu"):
            check_memory(config, torch.bfloat16, scheme, CPU)
    monkeypatch.setattr("engine.placement.available_bytes", lambda device: None)
    check_memory(config, torch.bfloat16, None, CPU)
