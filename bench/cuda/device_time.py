"""Timing short device work: one graph, replayed until a sample is far longer than a wait for it."""

import math
import time
from collections.abc import Callable

import torch

from bench.timing import Timed, nothing
from kernels.gpu.captured import Captured

SAMPLE_S = 0.004  # a wait for the device takes some 10 µs, which is then 0.3 %
MOST_REPLAYS = 2000


def device_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one `work()` on the device, by events around `repeats` of them; by the clock on a CPU."""
    if device.type != "cuda":
        begun_s = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - begun_s) / repeats
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(repeats):
        work()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3 / repeats


def graph_timed(
    name: str,
    call: Callable[[int], object],
    copies: int,
    device: torch.device,
    *,
    check: Callable[[], object] = nothing,
) -> Timed:
    """`call(0)` … `call(copies - 1)` as one graph, replayed for `SAMPLE_S`; a sample is the time of a call.

    `check` runs here, before anything is captured, and raises `WrongAnswer`.
    """
    check()

    def work() -> None:
        for index in range(copies):
            call(index)

    replay = Captured(work, device)
    times = 1
    if device.type == "cuda":
        replay()
        took_s = device_seconds(replay, device, 3)
        times = min(max(math.ceil(SAMPLE_S / took_s), 1), MOST_REPLAYS)

    def run() -> None:
        for _ in range(times):
            replay()

    return Timed(name, run, repeats=copies * times)
