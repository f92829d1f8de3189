"""Our own logits of given text, on the two paths that serve it: all tokens at once, and one at a time.

They are apart because a backend may use other kernels for one token than for many.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.passages import Passage
from engine.model import Model

Forced = Callable[[Sequence[Passage]], list[Tensor]]


def paths(model: Model) -> dict[str, Forced]:
    """By name, what gives for each passage (its targets, V) fp32 logits."""
    return {
        "prefill": lambda passages: [prefill(model, passage) for passage in passages],
        "decode": lambda passages: [decode(model, passage) for passage in passages],
    }


def prefill(model: Model, passage: Passage) -> Tensor:
    """One forward over all but the last token -> (targets, V)."""
    read = passage.ids[:-1]
    cache = model.new_cache(len(read))
    layout = cache.extend({cache.add_row(): len(read)})
    logits, _ = model.forward(read, layout, cache, of=range(passage.judged - 1, len(read)))
    return logits


def decode(model: Model, passage: Passage) -> Tensor:
    """What is not judged at once, then token by token through the cache -> (targets, V)."""
    cache = model.new_cache(len(passage.ids))
    row = cache.add_row()
    rows = []
    for tokens in (passage.ids[: passage.judged], *((token,) for token in passage.targets[:-1])):
        logits, _ = model.forward(tokens, cache.extend({row: len(tokens)}), cache)
        rows.append(logits[0].clone())
    return torch.stack(rows)
