"""How busy the device was while a window ran, and who else was at work on it.

On a GPU a thread asks NVML ten times a second; what the CPU did is the difference of two looks at /proc.
Other processes are named, since a meter reads the whole device: their joules are in our figures.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Protocol

from engine.energy.meter import Clock
from engine.errors import MeterError
from kernels.cpu.crew import cores

SAMPLE_S = 0.1
NOTICED = 0.05  # of one core: what a process must have used to be named
_PROC = Path("/proc")


class GpuReadings(Protocol):
    """What is asked of a GPU; see `engine.energy.nvml.NvmlReadings`."""

    def utilisation(self) -> tuple[float, float] | None: ...
    def clocks_hz(self) -> tuple[float, float] | None: ...
    def other_processes(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Of one window; None where it is not told.

    `cpu_share`: busy time of this process over all cores it may use. `gpu_share`, `gpu_memory_share`,
    `sm_clock_hz`, `memory_clock_hz`: means of the samples. `others`: the names of other processes that were
    at work, with their share of a core, those of one name together; on a GPU name and id, and None.
    """

    cpu_share: float
    gpu_share: float | None
    gpu_memory_share: float | None
    sm_clock_hz: float | None
    memory_clock_hz: float | None
    others: Mapping[str, float | None]


class Observer:
    """`begin` before a window, `end` after it. `gpu` None: the run uses none."""

    def __init__(self, gpu: GpuReadings | None, *, clock: Clock = time.monotonic) -> None:
        self._gpu, self._clock = gpu, clock
        self._samples: list[tuple[tuple[float, float] | None, tuple[float, float] | None]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun_s, self._own_s, self._before = 0.0, 0.0, dict[int, tuple[str, float]]()

    def begin(self) -> None:
        """The window begins now."""
        self._samples = []
        if self._gpu is not None:
            self._stopping = threading.Event()
            self._thread = threading.Thread(target=self._sample, args=(self._stopping,), daemon=True)
            self._thread.start()
        self._before = _cpu_seconds()
        self._own_s, self._begun_s = time.process_time(), self._clock()

    def end(self) -> Occupancy:
        """The window is over."""
        elapsed_s = max(self._clock() - self._begun_s, 1e-9)
        own_s = time.process_time() - self._own_s
        others = _others_on_cpu(self._before, _cpu_seconds(), elapsed_s)
        if self._thread is not None:
            self._stopping.set()
            self._thread.join(timeout=2.0)
            self._thread = None
            others = _others_on_gpu(self._gpu)
        rates = [rate for rate, _ in self._samples if rate is not None]
        clocks = [clock for _, clock in self._samples if clock is not None]
        return Occupancy(
            cpu_share=own_s / elapsed_s / cores(),
            gpu_share=mean(r[0] for r in rates) if rates else None,
            gpu_memory_share=mean(r[1] for r in rates) if rates else None,
            sm_clock_hz=mean(c[0] for c in clocks) if clocks else None,
            memory_clock_hz=mean(c[1] for c in clocks) if clocks else None,
            others=others,
        )

    def _sample(self, stopping: threading.Event) -> None:
        assert self._gpu is not None
        while not stopping.wait(SAMPLE_S):
            try:
                self._samples.append((self._gpu.utilisation(), self._gpu.clocks_hz()))
            except MeterError:  # the energy meter of the window tells of a driver that fails
                return


def _others_on_gpu(gpu: GpuReadings | None) -> Mapping[str, float | None]:
    """By name where this host has a process of that number: in a container NVML's numbers are not ours."""
    try:
        found = gpu.other_processes() if gpu is not None else ()
    except MeterError:
        return {}
    return {f"{_name(pid)} ({pid})": None for pid in found}


def _others_on_cpu(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]], elapsed_s: float
) -> Mapping[str, float | None]:
    shares: dict[str, float | None] = {}
    for pid, (name, seconds) in after.items():
        share = (seconds - before.get(pid, (name, 0.0))[1]) / elapsed_s
        if share > NOTICED and pid != os.getpid():
            shares[name] = (shares.get(name) or 0.0) + share
    return shares


def named(others: Iterable[Mapping[str, float | None]]) -> tuple[str, ...]:
    """Over several windows, each name with the most that was seen of it, the busiest first."""
    most: dict[str, float | None] = {}
    for window in others:
        for name, share in window.items():
            most[name] = share if share is None else max(share, most.get(name) or 0.0)
    busiest = sorted(most.items(), key=lambda item: (-(item[1] or 0.0), item[0]))
    return tuple(name if share is None else f"{name} ({share:.0%} of a core)" for name, share in busiest)


def _cpu_seconds() -> dict[int, tuple[str, float]]:
    """Name and CPU seconds of every process that /proc shows; none off Linux."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found = {}
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        head, _, tail = text.rpartition(")")  # the name may hold spaces and brackets
        fields = tail.split()
        if len(fields) > 12:
            name = head.partition("(")[2]
            found[int(path.parent.name)] = (name, (int(fields[11]) + int(fields[12])) / ticks_per_s)
    return found


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unnamed"
