"""Our own reader of memory: the crew of the `cpu` backend adds up 64-bit words. See `bench.bandwidth`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cpu.crew import Crew, finish, new_claim, take, wait
from kernels.cpu.target import compiled

CHUNK = 1 << 17  # words, 1 MiB: some hundred µs, so that two threads end together


@compiled
def _add_up(claim: Any, words: Any, sums: Any) -> None:
    """sums[k] = sum of the k-th chunk of `words` (n,) int64, wrapping."""
    chunks = sums.size
    chunk = take(claim, 0)
    while chunk < chunks:
        total = np.int64(0)
        for word in words[chunk * CHUNK : (chunk + 1) * CHUNK]:
            total += word
        sums[chunk] = total
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)


def crew_reader(data: np.ndarray, threads: int) -> Callable[[], int]:
    """A function that reads `data` once with `threads` threads and returns the wrapped sum of its words."""
    words = data.reshape(-1).view(np.int64)
    crew = Crew(threads)
    sums = np.empty(-(-len(words) // CHUNK), np.int64)

    def read() -> int:
        crew.run(_add_up, new_claim(), words, sums)
        return int(sums.sum())

    return read
