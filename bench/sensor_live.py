"""Records a GPU's power sensor under a load of known times: idle, isolated steps, dithered square waves.

A square wave of one period tells a lag only up to that period, and nothing at all where the sensor's is the
same. So every half of every wave is stretched or shrunk at random, around periods that have no common
multiple with each other or with 10, 20 and 100 ms.
"""

import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engine.energy.meter import Clock
from engine.energy.nvml import NvmlReadings, uuid_of_cuda_device
from engine.energy.power_recording import PowerRecording, recording_of
from engine.errors import MeterError, TokenjouleError, UsageError

POLL_S = 0.001
IDLE_S = 4.0  # before and after
STEPS = 6
WAVE_S = 24.0  # of each wave
WAVES_S = (0.0437, 0.0713, 0.1319, 0.2931)  # periods
DITHER = 0.3  # each half of a period is up to this share longer or shorter
_BUFFER = 1 << 26  # bytes: beyond the caches of most GPUs, 130 MB of traffic a launch
_QUEUE_S = 0.0005  # of launches between two looks at the clock


class Readings(Protocol):
    """What is polled; None where the GPU does not have it."""

    name: str
    uuid: str
    driver: str

    def instant_w(self) -> float | None: ...
    def draw_w(self) -> float | None: ...
    def counter_j(self) -> float | None: ...
    def close(self) -> None: ...


class Load(Protocol):
    """Work that can be switched on and off."""

    def run(self, until_s: float) -> None:
        """Keep the device busy until the clock says `until_s`; come back when it is idle again."""


class StreamingLoad:
    """Reads one buffer and writes another, over and over: what decoding does, far from the power limit."""

    def __init__(self, device: torch.device, *, clock: Clock = time.monotonic) -> None:
        self._clock, self._device = clock, device
        self._source = torch.ones(_BUFFER // 4, device=device)
        self._target = torch.empty_like(self._source)
        self._launches = 1
        start_s = clock()
        self.run(start_s + 0.5)  # clocks rise, the first launch has been loaded
        took_s = self._launch(64)
        self._launches = max(int(_QUEUE_S / (took_s / 64)), 1)

    def run(self, until_s: float) -> None:
        while self._clock() < until_s:
            self._launch(self._launches)

    def _launch(self, times: int) -> float:
        start_s = self._clock()
        for _ in range(times):
            torch.mul(self._source, 1.0000001, out=self._target)
        torch.cuda.synchronize(self._device)
        return self._clock() - start_s


def schedule(seed: int = 0, wave_s: float = WAVE_S) -> list[float]:
    """Seconds of load, idle, load, …, idle: steps of about a second, then `wave_s` of each wave.

    111 s in all, unless the waves are made shorter.
    """
    rng = random.Random(seed)
    spans_s = [rng.uniform(0.8, 1.2) for _ in range(2 * STEPS)]
    for period_s in WAVES_S:
        for _ in range(round(wave_s / period_s)):
            spans_s += [period_s / 2 * rng.uniform(1 - DITHER, 1 + DITHER) for _ in range(2)]
    return spans_s


class Sampler:
    """Polls readings from a thread of its own, about every `POLL_S`, as long as the `with` lasts."""

    def __init__(self, readings: Readings, *, clock: Clock = time.monotonic) -> None:
        self._readings, self._clock = readings, clock
        self._rows: list[tuple[float, float, float, float, float]] = []
        self._stopping = threading.Event()
        self._failure: MeterError | None = None
        self._thread = threading.Thread(target=self._run, name="sensor-sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)  # a driver call that hangs must not hang its caller

    def rows(self) -> np.ndarray:
        """(n, 5): time of the powers, instant W, draw W, time of the counter, counter J; NaN for none.

        Raises `MeterError` when NVML failed on the way.
        """
        if self._failure is not None:
            raise self._failure
        return np.array(self._rows, dtype=np.float64).reshape(-1, 5)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(POLL_S):
                before_s = self._clock()
                instant_w, draw_w = self._readings.instant_w(), self._readings.draw_w()
                between_s = self._clock()
                energy_j = self._readings.counter_j()
                times_s = ((before_s + between_s) / 2, (between_s + self._clock()) / 2)
                values = [np.nan if value is None else value for value in (instant_w, draw_w, energy_j)]
                self._rows.append((times_s[0], values[0], values[1], times_s[1], values[2]))
        except MeterError as error:
            self._failure = error


def record(
    readings: Readings,
    load: Load,
    spans_s: Sequence[float],
    *,
    idle_s: float,
    clock: Clock = time.monotonic,
) -> dict[str, Any]:
    """Run the load through its spans (load and idle in turn, `idle_s` around) and give the arrays.

    Times count from the beginning. Raises `MeterError` when NVML fails.
    """
    marks_s = []
    start_s = clock()
    with Sampler(readings, clock=clock) as sampler:
        time.sleep(idle_s)
        for index, span_s in enumerate(spans_s):
            marks_s.append(clock())
            if index % 2 == 0:
                load.run(marks_s[-1] + span_s)
            else:
                time.sleep(span_s)
        marks_s.append(clock())
        time.sleep(idle_s)
    rows = sampler.rows()
    if not np.isfinite(rows[:, 1:3]).any() and not np.isfinite(rows[:, 4]).any():
        raise MeterError(f"{readings.name} gives neither its power nor an energy counter")
    arrays: dict[str, Any] = {
        "sensor_t_ms": (rows[:, 0] - start_s) * 1e3,
        "sensor_instant_w": rows[:, 1],
        "sensor_draw_w": rows[:, 2],
        "load_mark_t_ms": (np.array(marks_s) - start_s) * 1e3,
        "gpu": np.array(readings.name),
        "uuid": np.array(readings.uuid),
        "driver": np.array(readings.driver),
    }
    counted = np.isfinite(rows[:, 4])
    if counted.any():
        arrays |= {"time_s": rows[counted, 3] - start_s, "energy_j": rows[counted, 4]}
    return arrays


def record_gpu(device: int, path: Path | None, *, wave_s: float = WAVE_S) -> PowerRecording:
    """Characterise CUDA device `device` of this machine; its recording is kept at `path` if one is given.

    Raises `TokenjouleError` where there is no such device or the file cannot be written, `MeterError` where
    NVML fails.
    """
    if not torch.cuda.is_available():
        raise TokenjouleError(
            "this machine has no CUDA device to characterise; --recording takes a recording"
        )
    if not 0 <= device < torch.cuda.device_count():
        raise UsageError(f"there are {torch.cuda.device_count()} CUDA devices, none is number {device}")
    spans_s = schedule(wave_s=wave_s)
    readings = NvmlReadings(uuid_of_cuda_device(device))
    try:
        took_s = round(sum(spans_s) + 2 * IDLE_S)
        print(f"characterising {readings.name}: {took_s} s, nothing else should run on it", file=sys.stderr)
        load = StreamingLoad(torch.device("cuda", device))
        arrays = record(readings, load, spans_s, idle_s=IDLE_S)
    finally:
        readings.close()
    if path is not None:
        try:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error
    return recording_of(path or Path("this GPU"), arrays)
