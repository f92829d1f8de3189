"""Training sequences as tensors, sorted by length into micro-batches, and the gradient of their loss."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from bench.testbed.vocabulary import PAD, TOKEN_ID
from bench.train.examples import Example


def micro_batches(
    rows: Sequence[tuple[list[int], list[float]]], parts: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields `parts` pairs of ids (B, T) int64 and weights (B, T) fp32, padded on the right.

    `rows` come sorted by length: a mixed batch would be more than half padding (mean 45 tokens, longest
    about 150).
    """
    size = len(rows) // parts
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        width = len(part[-1][0])
        yield (
            torch.tensor([ids + [TOKEN_ID[PAD]] * (width - len(ids)) for ids, _ in part]),
            torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in part]),
        )


def loss_sum(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the tokens' cross-entropies. Padding is on the right, so causality hides it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # (B, T-1, hidden)
    wanted = weights[:, 1:] > 0
    losses = cross_entropy(model.lm_head(hidden[wanted]).float(), ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum()


def accumulate(model: LlamaForCausalLM, examples: Sequence[Example], parts: int) -> tuple[float, int]:
    """Adds the gradient of a batch's weighted mean loss. Returns that loss in nats and the tokens read.

    On a GPU activations are bf16, weights and gradients stay fp32.
    """
    rows = sorted((example.tokens() for example in examples), key=lambda row: len(row[0]))
    weight = sum(sum(weights) for _, weights in rows)
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for ids, weights in micro_batches(rows, parts):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_sum(model, ids.to(device), weights.to(device)) / weight
        torch.autograd.backward(loss)
        total += loss.detach()
    return total.item(), sum(len(ids) for ids, _ in rows)
