"""Choosing the next token: the field's usual filters, and random numbers keyed by (seed, row, position).

Order and meaning of the filters are transformers': repetition penalty, temperature, top-k, top-p, min-p.
A row's draw depends on nothing but its key and its logits, so its neighbours cannot change it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a row's next token is chosen. Temperature 0 is greedy, and then the filters cannot matter.

    `answer_temperature`: of the answer of a model that marks its thinking; None for the same as before.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    answer_temperature: float | None = None

    def __post_init__(self) -> None:
        coldest = 1e-4  # below, logits over temperature leave what fp32 can hold apart
        for name in ("temperature", "answer_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and (value == 0 or value >= coldest)):
                raise UsageError(f"{name.replace('_', ' ')} must be 0, or {coldest:g} and more, not {value}")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must lie in (0, 1], not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p must lie in [0, 1], not {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UsageError(f"repetition penalty must be positive, not {self.repetition_penalty}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must lie in [0, 2^63), not {self.seed}")

    @property
    def of_answer(self) -> "Sampling":
        """How the tokens of a marked answer are chosen."""
        if self.answer_temperature in (None, self.temperature):
            return self
        return replace(self, temperature=self.answer_temperature)

    @property
    def has_filters(self) -> bool:
        """Whether any token may be excluded."""
        return not (self.top_k is None and self.top_p is None and self.min_p is None)


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row's next token depends on, beside its logits. `seen`: its tokens so far, prompt included.

    (seed, `row`, `position`) is the key of its random number.
    """

    sampling: Sampling
    seen: Sequence[int]
    row: int
    position: int


def sample(logits: Tensor, sampling: Sampling, *, seen: Sequence[int], row: int, position: int) -> int:
    """The next token of one row; logits (V,) fp32."""
    return sample_rows(logits[None], [Draw(sampling, seen, row, position)])[0]


def sample_rows(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """The next token of every row, the same as one by one; logits (B, V) fp32.

    Rows that are sampled alike go through each operation together: on a tiny model the calls, not the
    numbers, are what 16 rows of their own would wait for.
    """
    alike: dict[Sampling, list[int]] = {}
    for index, draw in enumerate(draws):
        alike.setdefault(draw.sampling, []).append(index)
    if len(alike) == 1:
        return _sample_alike(logits, draws[0].sampling, draws)
    tokens = [0] * len(draws)
    for sampling, indices in alike.items():
        found = _sample_alike(logits[indices], sampling, [draws[index] for index in indices])
        for index, token in zip(indices, found, strict=True):
            tokens[index] = token
    return tokens


def _sample_alike(logits: Tensor, sampling: Sampling, draws: Sequence[Draw]) -> list[int]:
    """Each draw inverts the row's cumulative distribution at one uniform number."""
    if sampling.repetition_penalty != 1.0:
        rows = zip(logits, draws, strict=True)
        logits = torch.stack([penalised(row, draw.seen, sampling.repetition_penalty) for row, draw in rows])
    if sampling.temperature == 0:
        return list(map(int, logits.argmax(-1).tolist()))
    kept = logits / sampling.temperature
    if sampling.has_filters:
        kept = torch.stack([filtered(row, sampling) for row in kept])
    # fp64, so that 128k small probabilities add up to 1 to well below the uniform's own resolution.
    cumulative = kept.double().softmax(-1).cumsum(-1)
    uniforms = torch.tensor(_uniforms(draws), dtype=torch.float64, device=logits.device)
    at = (uniforms * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, at, right=True)[:, 0].tolist()
    last = kept.shape[-1]
    # A product that rounds up to the whole sum lands behind the last token.
    return [int(kept[row].isfinite().nonzero()[-1]) if t == last else t for row, t in enumerate(tokens)]


def penalised(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Logits of tokens seen before, divided by `penalty` where positive, multiplied where negative (CTRL)."""
    tokens = torch.tensor(sorted(set(seen)), dtype=torch.long, device=logits.device)
    before = logits[tokens]
    return logits.index_copy(0, tokens, torch.where(before > 0, before / penalty, before * penalty))


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """`logits` (V,) with what top-k, top-p and min-p exclude at minus infinity. The likeliest token stays."""
    if sampling.top_k is not None and sampling.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        kept = _nucleus(logits.softmax(-1), sampling.top_p)
        logits = torch.full_like(logits, -torch.inf).index_copy(0, kept, logits[kept])
    if sampling.min_p is not None and sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)
    return logits


def _nucleus(probabilities: Tensor, p: float) -> Tensor:
    """The likeliest tokens, each of which has less than `p` before it.

    Sorting a vocabulary of 128k takes 13 ms, half a step of a packed 1B on a CPU; mostly 256 suffice.
    """
    count = 256
    while True:
        count = min(count, probabilities.numel())
        likeliest = probabilities.topk(count)
        up_to = likeliest.values.double().cumsum(-1)
        before = up_to - likeliest.values
        if count == probabilities.numel() or before[-1] >= p:
            return likeliest.indices[before < p]
        count *= 16


def _uniforms(draws: Sequence[Draw]) -> list[float]:
    """One number in [0, 1) for each draw: the first of the counter-based Philox generator (Salmon et al.,
    SC'11) with key `seed` and counter (row, position).

    One generator is set to key after key: 2 µs each on an EPYC, where making one for each takes 18.
    """
    generator = np.random.Philox(key=0)
    state: Any = generator.state
    numbers = []
    for draw in draws:
        state["state"] = {"key": (draw.sampling.seed, 0), "counter": (0, 0, draw.row, draw.position)}
        generator.state = state
        numbers.append((generator.random_raw() >> 11) * 2.0**-53)
    return numbers
