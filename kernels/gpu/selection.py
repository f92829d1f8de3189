"""How the rows of a batch choose their tokens: settings in device memory, so that one graph serves all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor


class Kind(IntEnum):
    """What the rows of a batch need at most; a kind serves the ones before. A graph is of one kind."""

    GREEDY = 0
    SAMPLED = 1  # temperature alone
    FILTERED = 2  # and any of top-k, top-p, min-p

    @classmethod
    def needed(
        cls, temperature: float, *, top_k: int | None, top_p: float | None, min_p: float | None
    ) -> "Kind":
        """For a row of these settings; None for a filter that is off."""
        if temperature == 0:
            return cls.GREEDY
        return cls.SAMPLED if top_k is None and top_p is None and min_p is None else cls.FILTERED


@dataclass(frozen=True, slots=True)
class Selection:
    """How each of B rows chooses. The tensors may change between steps, in place.

    `temperature` (B,) fp32, 0 for greedy. `top_k` (B,) int32, 0 for all. `top_p` (B,) fp64, 1 for all.
    `min_p` (B,) fp32, 0 for all. `penalty` (B,) fp32, 1 for none.
    `seeds` (B,) int64 and `streams` (B,) int32, the row's number in its request: with the position of the
    token to be drawn they are all that a draw depends on.
    `seen` (B, V) int8: 1 for tokens that the row holds, to which a chosen token is added; None where no row
    has a penalty.
    """

    kind: Kind
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    penalty: Tensor
    seeds: Tensor
    streams: Tensor
    seen: Tensor | None

    @classmethod
    def make(
        cls, kind: Kind, rows: int, vocabulary: int, *, penalised: bool, device: torch.device
    ) -> "Selection":
        """All rows greedy, of streams 0 … B-1, nothing seen."""
        return cls(
            kind=kind,
            temperature=torch.zeros(rows, dtype=torch.float32, device=device),
            top_k=torch.zeros(rows, dtype=torch.int32, device=device),
            top_p=torch.ones(rows, dtype=torch.float64, device=device),
            min_p=torch.zeros(rows, dtype=torch.float32, device=device),
            penalty=torch.ones(rows, dtype=torch.float32, device=device),
            seeds=torch.zeros(rows, dtype=torch.int64, device=device),
            streams=torch.arange(rows, dtype=torch.int32, device=device),
            seen=torch.zeros(rows, vocabulary, dtype=torch.int8, device=device) if penalised else None,
        )

    def of_kind(self, kind: Kind) -> "Selection":
        """The same tensors under another kind."""
        return replace(self, kind=kind)

    def set_row(
        self,
        row: int,
        *,
        stream: int,
        seed: int,
        temperature: float,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seen: Sequence[int] = (),
    ) -> None:
        """How a row chooses from now on, and the tokens that it holds; mutates the tensors at `row`.

        Raises `ValueError` for what this kind, or a selection without `seen`, cannot do.
        """
        needed = Kind.needed(temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        if needed > self.kind:
            raise ValueError(f"a row needs {needed.name}, the batch is {self.kind.name}")
        if self.seen is None and repetition_penalty != 1:
            raise ValueError(f"a repetition penalty of {repetition_penalty} in a batch without penalties")
        self.temperature[row] = temperature
        self.top_k[row] = top_k or 0
        self.top_p[row] = 1.0 if top_p is None else top_p
        self.min_p[row] = min_p or 0.0
        self.penalty[row] = repetition_penalty
        self.seeds[row] = seed
        self.streams[row] = stream
        if self.seen is not None:
            self.seen[row] = 0
            self.seen[row, torch.tensor(seen, dtype=torch.long, device=self.seen.device)] = 1

    def __len__(self) -> int:
        return len(self.temperature)
