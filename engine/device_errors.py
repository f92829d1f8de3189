"""What torch, CUDA and Triton raise when a device fails, as one line; and why there is no device.

Knows their words, which are no interface: what it does not know it leaves alone. Torch raises
`OutOfMemoryError`, `AcceleratorError` (CUDA's runtime), `RuntimeError` (its driver, its libraries), Triton's
launcher `RuntimeError`, its compiler errors of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import TokenjouleError

_NO_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_FAILED = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "cuDNN error")
_NO_CUDA = (
    "Found no NVIDIA driver",
    "The NVIDIA driver on your system is too old",
    "No CUDA GPUs are available",
    "CUDA driver initialization failed",
    "CUDA unknown error",
    "Unexpected error from cudaGetDeviceCount",
    "Torch not compiled with CUDA enabled",
)


def failure_line(error: BaseException) -> str | None:
    """One line for what a device, its driver or its compiler did; None for every other error.

    What came first counts: running out of memory in a capture also ends the capture in an error of its own.
    """
    chain = list(_chain(error))
    memory = next((each for each in chain if _is_out_of_memory(each)), None)
    if memory is not None:
        return f"out of memory: {_first(memory)}" if str(memory) else "out of memory"
    for each in reversed(chain):
        line = _first(each)
        if type(each).__module__.partition(".")[0] == "triton":
            said = [part.strip() for part in str(each).splitlines() if part.strip()] or [type(each).__name__]
            return f"a kernel cannot be compiled or launched for this device: {said[-1]}"
        if isinstance(each, torch.AcceleratorError):
            return f"the device failed: {line}"
        if isinstance(each, RuntimeError | AssertionError):
            if line.startswith(_FAILED):
                return f"the device failed: {line}"
            if line.startswith(_NO_CUDA):
                return f"CUDA cannot be used: {line}"
    return None


@contextmanager
def device_failures(doing: str) -> Iterator[None]:
    """In here a device that fails raises `TokenjouleError`, which also says in what: `doing`."""
    try:
        yield
    except Exception as error:
        line = None if isinstance(error, TokenjouleError) else failure_line(error)
        if line is None:
            raise
        raise TokenjouleError(f"{line} ({doing})") from error


def why_no_cuda() -> str:
    """Why torch finds no CUDA device here."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _first(error)
    return "the driver shows none"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or in the handling of."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _first(error: BaseException) -> str:
    """What an error says: of its first line what a user can use, without advice on how to build torch."""
    line = next(iter(str(error).splitlines()), "")
    for rest in (" Including non-PyTorch memory", " Process ", " Please ", " If reserved but"):
        line = line.partition(rest)[0]
    return line.strip().rstrip(".")
