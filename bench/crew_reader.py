"""Our own reader of memory: the crew of the `cpu` backend adds up 64-bit words. See `bench.bandwidth`.

It asks ahead for what it will read, as the backend's products do. Left to the CPU's own prefetching, two
threads of a Zen 2 read 23 GB/s where this reads 30, and a decode step would come out faster than memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.crew import Crew, finish, new_claim, take, wait
from kernels.cpu.target import compiled, fetch_ahead

CHUNK = 1 << 17  # words, 1 MiB: some hundred µs, so that two threads end together
LINE = 8  # words
# Words ahead that are asked for: 0, 16, 32, 64, 96, 128, 192 give 23.3, 24.7, 25.6, 26.9, 29.1, 30.0, 27.5
# GB/s on two threads of a Zen 2 (medians of 5), 256 to 8192 as much as none.
AHEAD = 128


@intrinsic
def _ask(typing_context, words, place):  # type: ignore[no-untyped-def]
    """Ask for the line that holds words[place], which may lie beyond the end."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        bytes_ = ir.IntType(8).as_pointer()
        fetch_ahead(builder, builder.bitcast(builder.gep(data, [args[1]]), bytes_))
        return context.get_dummy_value()

    return types.void(words, types.intp), generate


@compiled
def _add_up(claim: Any, words: Any, sums: Any) -> None:
    """sums[k] = sum of the k-th chunk of `words` (n,) int64, wrapping."""
    chunks = sums.size
    chunk = take(claim, 0)
    while chunk < chunks:
        total = np.int64(0)
        begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, words.size)
        lines = begin + (end - begin) // LINE * LINE
        for line in range(begin, lines, LINE):
            _ask(words, line + AHEAD)
            for word in range(LINE):
                total += words[line + word]
        for word in range(lines, end):
            total += words[word]
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
