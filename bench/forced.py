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
    """By name, what gives for each passage (its targets, V) fp32 logits, on the CPU."""
    one_by_one = captured_decode if model.backend.captures else decode
    return {
        "prefill": lambda passages: [prefill(model, passage).cpu() for passage in passages],
        "decode": lambda passages: [one_by_one(model, passage).cpu() for passage in passages],
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


def captured_decode(model: Model, passage: Passage) -> Tensor:
    """As `decode`, by the steps that a device captures: what they choose is overwritten by the passage."""
    from kernels.gpu.decode_step import StepShape
    from kernels.gpu.selection import Kind

    cache = model.request_cache(len(passage.ids), rows=1)
    row = cache.add_row()
    first = passage.ids[: passage.judged]
    logits, _ = model.forward(first, cache.extend({row: len(first)}), cache)
    rows = [logits[0].clone()]
    fed = passage.targets[:-1]
    if not fed:
        return torch.stack(rows)
    cache.reserve({row: len(fed)})
    pages = cache.pages(row)
    shape = StepShape(1, max(len(pages), 64), Kind.GREEDY, False)  # one compilation for all short passages
    captured = model.captured_steps(cache.layers).of(shape)
    for position, token in enumerate(fed, start=len(first)):
        captured.step.load([token], [position], [pages])
        captured.launch()
        rows.append(captured.step.logits[0].clone())
    return torch.stack(rows)
