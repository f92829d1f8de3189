"""Where a model runs and in what: device, backend, dtype, and whether its weights fit."""

import platform
import warnings
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.device_errors import why_no_cuda
from engine.errors import TokenjouleError, UsageError
from engine.memory import available_bytes
from engine.schemes import Scheme
from engine.weights import memory_bytes
from kernels import api

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str | int | None) -> torch.device:
    """A CUDA index, "cpu", or None for the first CUDA device if there is one.

    Warns where None becomes the CPU because CUDA does not start. Raises `UsageError` for what is no device,
    `TokenjouleError` where there is none at all.
    """
    if device == "cpu":
        return torch.device("cpu")
    count, complains = _cuda_devices()
    if device is None and count == 0:
        if complains:
            warnings.warn(f"running on the CPU: {why_no_cuda()}", stacklevel=2)
        return torch.device("cpu")
    index = 0 if device is None else device
    if isinstance(index, str):
        if not (index.isascii() and index.isdigit()):
            raise UsageError(f"device must be a CUDA index or cpu, not {index!r}")
        index = int(index)
    if count == 0:
        raise TokenjouleError(f"there is no CUDA device: {why_no_cuda()}")
    if not 0 <= index < count:
        raise UsageError(f"there is no CUDA device {index}; there are {count}, counted from 0")
    return torch.device("cuda", index)


def _cuda_devices() -> tuple[int, bool]:
    """(how many there are, whether torch complains of the driver: in two lines, better said in one)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count, bool(caught)


def choose_backend(name: str, device: torch.device, dtype: torch.dtype) -> api.Backend:
    """The backend of that name. "auto": `cpu` on a CPU, in the dtypes it takes; `gpu` on a CUDA device that
    it runs on; else `torch`.

    Raises `TokenjouleError` where it cannot run, `UsageError` for an unknown name.
    """
    if name == "auto" and device.type == "cuda":
        try:
            return api.load("gpu", device)
        except api.BackendUnavailable:
            name = "torch"
    if name == "auto":
        name = "cpu" if dtype in (torch.bfloat16, torch.float32) else "torch"
    try:
        return api.load(name, device)
    except api.BackendUnavailable as error:
        # Nobody asked for a CPU: it was what choose_device was left with.
        why = f"; {why_no_cuda()}" if (name, device.type) == ("gpu", "cpu") and not _cuda_devices()[0] else ""
        raise TokenjouleError(f"{error}{why}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def choose_dtype(name: str, config: ModelConfig) -> torch.dtype:
    """The checkpoint's own for "auto". Raises `UsageError` for an unknown name."""
    if name == "auto":
        return getattr(torch, config.dtype or "float32")
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; known: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_memory(
    config: ModelConfig, dtype: torch.dtype, scheme: Scheme | None, device: torch.device
) -> None:
    """Refuse what cannot fit, before the system ends the process for it."""
    weights = memory_bytes(config, dtype, scheme)
    free = available_bytes(device)
    if free is not None and weights > free:
        form = scheme.name if scheme is not None else str(dtype).removeprefix("torch.")
        raise TokenjouleError(
            f"the weights take {weights / 1e9:.1f} GB in {form}, {free / 1e9:.1f} GB of memory are free on "
            f"{device}"
        )


def device_name(device: torch.device) -> str:
    """The name of the chip."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
