"""Where a run was made: commit, device, clocks, versions. Reads the machine; measures nothing."""

import os
import secrets
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from bench.record import Stamp
from engine.energy.nvml import SM_CLOCK, uuid_of_cuda_device
from engine.placement import device_name

PACKAGES = ("torch", "numba", "numpy", "triton", "transformers", "llama-cpp-python", "gguf")
# What changes the speed of threads or the joules of the estimate, where it is set.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "MKL_NUM_THREADS",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "TOKENJOULE_WATTS_PER_CORE",
)


# Names the commit where the code was copied without its repository.
COMMIT = "TOKENJOULE_COMMIT"


def stamp(program: str, argv: Sequence[str], device: torch.device, *, run: str | None = None) -> Stamp:
    """The stamp of a run that begins now. `program`: as after `python -m`. `run`: of one that has begun."""
    reasons: dict[str, str] = {}
    commit, dirty = _commit(reasons)
    versions: dict[str, str | None] = {"python": python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
            reasons[package] = "not installed"
    versions["driver"] = _driver(device)
    if versions["driver"] is None:
        reasons["driver"] = "the run used no GPU" if device.type == "cpu" else "NVML did not tell"
    clocks = _clocks(device)
    if clocks is None:
        reasons["clock_mhz"] = "the system does not tell"
    return Stamp(
        run=run or secrets.token_hex(6),
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=("python", "-m", program, *argv),
        commit=commit,
        dirty=dirty,
        device=device_name(device),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        clock_mhz=clocks,
        versions=versions,
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        reasons=reasons,
    )


def _commit(reasons: dict[str, str]) -> tuple[str | None, bool | None]:
    root = Path(__file__).parents[1]
    try:
        if not (root / ".git").exists():
            if os.environ.get(COMMIT):
                reasons["dirty"] = f"the commit was told by {COMMIT}"
                return os.environ[COMMIT], None
            raise OSError("not a git checkout")
        commit = _git(root, "rev-parse", "HEAD").strip()
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError) as error:
        reasons["commit"] = reasons["dirty"] = str(error).splitlines()[0]
        return None, None
    return commit, dirty


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


def _clocks(device: torch.device) -> tuple[float, ...] | None:
    if device.type == "cuda":
        clock = _nvml(device, lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, SM_CLOCK))
        return None if clock is None else (float(clock),)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = tuple(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))
    return found or None


def _driver(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    told = _nvml(device, lambda nvml, _: nvml.nvmlSystemGetDriverVersion())
    return None if told is None else str(told)


def _nvml(device: torch.device, ask: Callable[[Any, object], object]) -> Any:
    """What NVML answers of torch's device: ask(pynvml, its handle); None where it does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return ask(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid_of_cuda_device(device.index)))
    except Exception:  # NVML's own errors and ours differ; a stamp must not end a run
        return None
