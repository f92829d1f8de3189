"""Threads that share the chunks of a stage: whoever is free takes the next one.

A stage is a compiled function that claims chunks from a counter until none is left, then waits for the
claimed ones to be finished. The caller works too and never waits for a helper that has not begun: on a busy
machine a helper that gets no core costs nothing. This is why numba's own parallel loops are not used. They
wait for every thread in every loop (load 5 on 2 cores: 2 GB/s instead of 17), their OpenMP layer is a second
libgomp beside torch's, whose threads spin against each other, and their workqueue layer takes 50 µs a loop
and ends the process when two threads call it. Helpers sleep between stages; they do not spin.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cpu.target import compiled

WORTH_IT = 0.9  # more threads must take less than this share of the time of fewer
TRIALS, MOST_TRIALS, MOST_S = 8, 60, 1.5  # rounds of measuring


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def new_claim(phases: int = 1) -> np.ndarray:
    """Counters of one run of a stage: (phases, 16) int64, one cache line each for claimed and finished."""
    return np.zeros((phases, 16), np.int64)


@intrinsic
def _add(typing_context, counters, index, amount):
    """counters.flat[index] += amount, atomically -> the value before. `counters` is contiguous int64."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.gep(array.data, [args[1]])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), generate


@compiled
def take(claim, phase):
    """The next chunk of the phase, to be finished by `finish`; from the number of chunks on: none left."""
    return _add(claim, phase * 16, 1)


@compiled
def finish(claim, phase):
    """One taken chunk of the phase is done, and what it wrote may be read."""
    _add(claim, phase * 16 + 8, 1)


@compiled
def wait(claim, phase, chunks):
    """Until all chunks of the phase are finished; each is in some thread's hands by now."""
    while _add(claim, phase * 16 + 8, 0) < chunks:
        pass


@compiled
def is_over(claim, phase, chunks):
    """Whether all chunks of the phase are finished."""
    return _add(claim, phase * 16 + 8, 0) >= chunks


class _Seat:
    """Where one helper waits. `bell` is held while there is nothing new; `job` is the newest stage."""

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.job: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self.thread = threading.Thread(target=self._work, daemon=True, name="tokenjoule-cpu")
        self.thread.start()

    def _work(self) -> None:
        while True:
            self.bell.acquire()
            job = self.job
            if job is None:
                return
            job[0](*job[1])
            job = None  # arrays of a finished stage are not kept alive

    def offer(self, job: tuple[Callable[..., Any], tuple[Any, ...]] | None) -> None:
        self.job = job
        if self.bell.locked():
            self.bell.release()


def _dismiss(seats: list[_Seat]) -> None:
    for seat in seats:
        seat.offer(None)


class Crew:
    """The caller and `threads` - 1 helpers. One stage at a time; a second caller waits."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._seats = [_Seat() for _ in range(threads - 1)]
        self._turn = threading.Lock()
        weakref.finalize(self, _dismiss, self._seats)

    def run(self, stage: Callable[..., Any], *args: Any, alone: bool = False) -> None:
        """stage(*args) by everyone. `args` must hold a fresh claim: a helper may begin after the end.

        `alone`: by the caller only, for work too small to wake anyone for.
        """
        if alone or not self._seats:
            stage(*args)
            return
        with self._turn:
            for seat in self._seats:
                seat.offer((stage, args))
            stage(*args)


def worthwhile_crew(work: Callable[[Crew], object]) -> Crew:
    """The smallest crew, in powers of two, that does `work` about as fast as any up to all cores.

    The shortest of interleaved runs counts: what a crew can do, whatever else the machine was doing. Where
    all cores have not come out fastest it goes on for a while: they may have been busy with something else.
    """
    powers = {2**power for power in range(cores().bit_length())}
    crews = [Crew(count) for count in sorted({cores(), *powers}) if count <= cores()]
    shortest = [float("inf")] * len(crews)
    work(crews[0])  # compiles, maps the weights
    chosen, start = crews[0], time.perf_counter()
    for trial in range(MOST_TRIALS):
        for index, crew in enumerate(crews):
            begun = time.perf_counter()
            work(crew)
            shortest[index] = min(shortest[index], time.perf_counter() - begun)
        best_s = min(shortest)
        chosen = next(crew for crew, s in zip(crews, shortest, strict=True) if WORTH_IT * s <= best_s)
        if trial >= TRIALS and (chosen is crews[-1] or time.perf_counter() - start > MOST_S):
            break
    return chosen
