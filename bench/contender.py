"""What `bench.decode` needs of an engine, ours or a peer's: load, decode from a filled cache, prefill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.record import Arm
from bench.timing import fastest
from engine.cache import KVCache, new_pool
from engine.config import ModelConfig
from engine.model import PAGE_SIZE
from engine.rope import inverse_frequencies
from kernels.cpu.crew import cores

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Filled:
    """A cache of ours with `rows` rows of `start` positions of random keys and values.

    All our arms of one dtype decode from it in turn: a step writes behind `start`, which nobody reads later.
    """

    rows: int
    start: int
    cache: KVCache
    ids: tuple[int, ...]

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer as (B, K, S, D) views, for those who keep them that way."""
        stride = -(-self.start // self.cache.page_size) * self.cache.page_size  # rows follow each other

        def view(pool: Tensor) -> Tensor:
            rows = pool[: self.rows * stride].unflatten(0, (self.rows, stride))
            return rows[:, : self.start].transpose(1, 2)

        return [(view(layer.keys), view(layer.values)) for layer in self.cache.layers]


def fill(
    config: ModelConfig,
    dtype: torch.dtype,
    rows: int,
    start: int,
    *,
    room: int = 16,
    device: torch.device = CPU,
    shared: bool = False,
) -> Filled:
    """A cache of the model's shape on `device`, with room for `room` more positions in each row.

    `shared`: all rows are forks of one, whose pages they share; `Filled.layers` is then not theirs.
    """
    frequencies, factor = inverse_frequencies(config.rope, config.head_dim)
    pages = rows * (-(-(start + room) // PAGE_SIZE) + 1)
    slots = (pages * PAGE_SIZE, config.n_kv_heads, config.head_dim)
    cache = KVCache(
        new_pool(config.n_layers, slots, dtype, device),
        pages=pages,
        page_size=PAGE_SIZE,
        frequencies=frequencies,
        rope_factor=factor,
        device=device,
    )
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for layer in cache.layers:
        for pool in (layer.keys, layer.values):
            for part in pool.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
    if shared:
        first = cache.add_row()
        cache.extend({first: start})
        ids = (first, *(cache.fork(first) for _ in range(rows - 1)))
    else:
        ids = tuple(cache.add_row() for _ in range(rows))
        cache.extend(dict.fromkeys(ids, start))
    return Filled(rows, start, cache, ids)


class Decoding(Protocol):
    """Decode steps of one arm in one case. Closed by its contender's `close` at the latest.

    `bytes`: read by the last of the steps of a sample. `note`: choices made by measuring.
    """

    @property
    def bytes(self) -> float: ...

    @property
    def note(self) -> str: ...

    def ready(self) -> None:
        """Set what other arms may have changed: the number of threads."""

    def step(self) -> None:
        """One token per row; the next tokens are chosen greedily."""

    def rollback(self) -> None:
        """Back to the filled positions."""

    def logits(self) -> Tensor | None:
        """(B, V) of a first step, rolled back; None where the arm's cache holds other numbers than ours."""

    def close(self) -> None:
        """Free the cache."""


class Contender(Protocol):
    """One engine with its weights loaded."""

    arm: Arm

    def start(self, filled: Filled, steps: int) -> Decoding:
        """Ready to decode `steps` at a time behind as many positions as `filled` has."""

    def ready(self) -> None:
        """As `Decoding.ready`, for a prefill."""

    def prefill(self, tokens: Sequence[int]) -> Tensor:
        """One prompt -> logits (V,) of its last token. Nothing is kept."""

    def close(self) -> None:
        """Free the weights."""


def best_threads(work: Callable[[], object], use: Callable[[int], object]) -> int:
    """How many threads, of 1, 2, 4 … and all cores, do `work` fastest. `use` sets them."""
    counts = sorted({cores(), *(2**power for power in range(cores().bit_length()) if 2**power <= cores())})

    def at(count: int) -> Callable[[], object]:
        def run() -> None:
            use(count)
            work()

        return run

    return int(fastest({str(count): at(count) for count in counts})) if len(counts) > 1 else counts[0]
