"""Training sequences as tensors, sorted by length into parts, and the gradient of their loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from bench.testbed.vocabulary import PAD, TOKEN_ID
from bench.train.examples import Example

Row = tuple[list[int], list[float]]  # ids, and the weight of each


@dataclass(frozen=True, slots=True)
class Batch:
    """`parts`: rows of about the same length each. `weight`: of all rows' tokens together. `tokens`: read."""

    parts: tuple[tuple[Row, ...], ...]
    weight: float
    tokens: int

    @classmethod
    def of(cls, examples: Sequence[Example], parts: int) -> "Batch":
        """Sorted by length: a mixed part would be more than half padding (mean 53 tokens, longest 190)."""
        rows = sorted((example.tokens() for example in examples), key=lambda row: len(row[0]))
        size = len(rows) // parts
        return cls(
            tuple(tuple(rows[first : first + size]) for first in range(0, len(rows), size)),
            sum(sum(weights) for _, weights in rows),
            sum(len(ids) for ids, _ in rows),
        )

    def share(self, number: int, count: int) -> "Batch":
        """What the `number`-th of `count` processes takes, of the same weight as the whole.

        The largest parts first, each to who has least: of model S's batches of 8 parts the longest has 41 %
        of the tokens, and with every second part for each of two processes one had 63 %.
        """
        loads = [0] * count
        taken = []
        for place in sorted(range(len(self.parts)), key=lambda place: -_size(self.parts[place])):
            least = loads.index(min(loads))
            loads[least] += _size(self.parts[place])
            if least == number:
                taken.append(place)
        return replace(self, parts=tuple(self.parts[place] for place in sorted(taken)))


def _size(rows: Sequence[Row]) -> int:
    """Tokens with their padding."""
    return len(rows) * max(len(ids) for ids, _ in rows)


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) int64 and weights (B, T) fp32, padded on the right."""
    width = max(len(ids) for ids, _ in rows)
    return (
        torch.tensor([ids + [TOKEN_ID[PAD]] * (width - len(ids)) for ids, _ in rows]),
        torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in rows]),
    )


def loss_sum(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the tokens' cross-entropies. Padding is on the right, so causality hides it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # (B, T-1, hidden)
    wanted = weights[:, 1:] > 0
    losses = cross_entropy(model.lm_head(hidden[wanted]).float(), ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum()


def add_gradient(model: LlamaForCausalLM, batch: Batch) -> float:
    """Adds the gradient of a batch's weighted mean loss, as far as its parts go; that loss in nats.

    On a GPU activations are bf16, weights and gradients stay fp32.
    """
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for rows in batch.parts:
        ids, weights = padded(rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_sum(model, ids.to(device), weights.to(device)) / batch.weight
        torch.autograd.backward(loss)
        total += loss.detach()
    return total.item()
