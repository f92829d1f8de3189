"""Training sequences as tensors, sorted by length into micro-batches, and the gradient of their loss."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from bench.testbed.vocabulary import PAD, TOKEN_ID
from bench.train.examples import Example


def micro_batches(
    rows: Sequence[tuple[list[int], list[bool]]], parts: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields `parts` pairs of ids (B, T) int64 and learned (B, T) bool, padded on the right.

    `rows` come sorted by length: a mixed batch would be more than half padding (mean 53 tokens, longest
    about 160).
    """
    size = len(rows) // parts
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        width = len(part[-1][0])
        yield (
            torch.tensor([ids + [TOKEN_ID[PAD]] * (width - len(ids)) for ids, _ in part]),
            torch.tensor([learned + [False] * (width - len(learned)) for _, learned in part]),
        )


def loss_sum(model: LlamaForCausalLM, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy over the learned tokens. Padding is on the right, so causality hides it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # (B, T-1, hidden)
    wanted = learned[:, 1:]
    return cross_entropy(model.lm_head(hidden[wanted]).float(), ids[:, 1:][wanted], reduction="sum")


def accumulate(model: LlamaForCausalLM, examples: Sequence[Example], parts: int) -> tuple[float, int]:
    """Adds the gradient of the mean loss over a batch. Returns that loss in nats and the tokens read.

    On a GPU activations are bf16, weights and gradients stay fp32.
    """
    rows = sorted((example.tokens() for example in examples), key=lambda row: len(row[0]))
    learned_tokens = sum(sum(learned) for _, learned in rows)
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for ids, learned in micro_batches(rows, parts):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_sum(model, ids.to(device), learned.to(device)) / learned_tokens
        torch.autograd.backward(loss)
        total += loss.detach()
    return total.item(), sum(len(ids) for ids, _ in rows)
