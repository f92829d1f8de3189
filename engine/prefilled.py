"""A prompt that has been read once: what a later request begins with, and what reading it told.

The keys and values are copied out of the request's cache, so that the next request, whatever its size, can
have them in its own: `session.begin_with(read)`. It then computes only what its prompt has beyond the tokens
that both begin with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.cache import KVCache
from engine.energy.report import EnergyReport
from engine.errors import TokenjouleError

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt
    from engine.model import Model


class ReadError(TokenjouleError):
    """A prompt could not be read. `energy_j`: what trying took, None where nobody can tell."""

    def __init__(self, line: str, energy_j: float | None) -> None:
        super().__init__(line)
        self.energy_j = energy_j


@dataclass(frozen=True, slots=True)
class Prefilled:
    """`keys`, `values`: (N, K, D) of each layer. `logits` (V,) fp32 behind the last token.

    `last`, `mean` {layer: (E,) fp32}: hidden states at the last token, and over all. `nll`: mean over the
    tokens behind the first, nats; nan for a prompt of one. `energy`: of reading, by the model's own meter.
    """

    model: "Model"
    token_ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    logits: Tensor
    last: Mapping[int, Tensor]
    mean: Mapping[int, Tensor]
    nll: float
    energy: EnergyReport
    elapsed_s: float

    @property
    def energy_j(self) -> float | None:
        """Of reading; None where the meter told not all of it."""
        return self.energy.window_j if self.energy.complete else None

    def in_common(self, token_ids: Sequence[int]) -> int:
        """How many first tokens another prompt has in common with this one."""
        pairs = zip(self.token_ids, token_ids, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.token_ids), len(token_ids)))

    def write(self, cache: KVCache, row: int, count: int) -> None:
        """The first `count` positions into an empty row of `cache`, which is mutated."""
        slots = cache.extend({row: count}).slots
        for layer, keys, values in zip(cache.layers, self.keys, self.values, strict=True):
            layer.keys[slots], layer.values[slots] = keys[:count], values[:count]


@dataclass(slots=True)
class Reading:
    """Collects, chunk by chunk, what a prompt's forwards tell of every position. `layers`: whose states."""

    layers: frozenset[int]
    token_ids: list[int] = field(default_factory=list)
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    logits: Tensor | None = None
    last: dict[int, Tensor] = field(default_factory=dict)
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _nll: float = 0.0

    def add(self, fed: Sequence[int], logits: Tensor, hidden: Mapping[int, Tensor]) -> None:
        """One chunk: logits (T, V) fp32, hidden {layer: (T, E)}."""
        rows = logits if self.logits is None else torch.cat([self.logits[None], logits])
        told = torch.tensor(fed[1:] if self.logits is None else fed, device=logits.device)
        scores = rows[: len(told)].log_softmax(-1).gather(-1, told[:, None])
        self._nll -= float(scores.double().sum())
        self.token_ids += fed
        self.logits = logits[-1]
        for layer in self.layers:
            states = hidden[layer].float()
            self.last[layer] = states[-1]
            self._sums[layer] = self._sums.get(layer, torch.zeros_like(states[0])) + states.sum(0)

    def keep(self, cache: KVCache, row: int) -> None:
        """Copies of the row's keys and values."""
        size, count = cache.page_size, cache.length(row)
        pages = torch.tensor(cache.pages(row), device=cache.layers[0].keys.device)
        slots = (pages[:, None] * size + torch.arange(size, device=pages.device)).flatten()[:count]
        self.keys = tuple(layer.keys[slots] for layer in cache.layers)
        self.values = tuple(layer.values[slots] for layer in cache.layers)

    def finished(self, model: "Model", energy: EnergyReport, elapsed_s: float) -> Prefilled:
        assert self.logits is not None, "a prompt has a token"
        count = len(self.token_ids)
        mean = {layer: total / count for layer, total in self._sums.items()}
        nll = self._nll / (count - 1) if count > 1 else float("nan")
        ids = tuple(self.token_ids)
        return Prefilled(
            model, ids, self.keys, self.values, self.logits, self.last, mean, nll, energy, elapsed_s
        )


def prefill(engine: "Engine", prompt: "Prompt", layers: Sequence[int], **options: Any) -> Prefilled:
    """Read `prompt`; one forward, as a request of its own. `options` as `Engine.start` has them.

    The head runs over every position, for `nll`. Raises `TokenjouleError` where the prompt does not fit,
    `ReadError` where reading it failed.
    """
    session = engine.start([prompt], max_new_tokens=1, **options)
    reading = Reading(frozenset(layers))
    session.read_with(reading)
    for _ in session.steps():
        pass
    [result] = session.results()
    if result.error is not None:
        raise ReadError(result.error, result.energy.window_j if result.energy.complete else None)
    return reading.finished(engine.model, result.energy, result.timing.prefill_s)
