"""A probe: what the row would answer now, read on its own cache and taken back.

The row's cache holds all its tokens when a probe runs; the probe's tokens are appended, read greedily, and
truncated away, which leaves the cache bit for bit as it was. `rider` has the other way, beside the row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.errors import TokenjouleError
from engine.model import Model
from engine.rows import Row
from engine.steps import Phase, Probe, ProbeReading
from engine.tokenizer import Tokenizer
from kernels.cost import RowWork

MODES = TRUNCATE, PIGGYBACK = "truncate", "piggyback"  # behind the row and taken back; beside it, a row more
PROBE_ROOM = 512  # cache positions a probe may take beyond the row


def merged(one: Probe, other: Probe) -> Probe | None:
    """A probe that reads what both ask for; None where they ask behind other texts or for other choices."""
    if one.text != other.text or (one.choices and other.choices and one.choices != other.choices):
        return None
    longest = max(one.max_tokens, other.max_tokens)
    return replace(one, max_tokens=longest, choices=one.choices or other.choices)


def asked_tokens(probe: Probe, row: Row, tokenizer: Tokenizer) -> list[int]:
    """What a probe feeds behind the row's tokens; empty where the context has no room for it.

    Raises `TokenjouleError` for a probe without text on a model that has no closer, or that reads nothing.
    """
    if probe.text is not None:
        asked = tokenizer.encode_inside(probe.text)
    elif row.marks is not None:
        asked = [*row.marks.closer, *row.marks.answer_prefix]
    else:
        raise TokenjouleError("a probe without text needs a model that marks the end of its thinking")
    if not asked or probe.max_tokens < 1:
        raise TokenjouleError("a probe must feed at least one token and read at least one")
    if len(asked) + probe.max_tokens > PROBE_ROOM:
        raise TokenjouleError(
            f"a probe of {len(asked)} + {probe.max_tokens} tokens; {PROBE_ROOM} are the most"
        )
    return asked if len(row.tokens) + len(asked) + probe.max_tokens <= row.max_context else []


def run_probe(
    model: Model, tokenizer: Tokenizer, cache: KVCache, ledger: Ledger, row: Row, probe: Probe
) -> ProbeReading | None:
    """The reading, booked under `probe`; None where the context has no room. Raises as `asked_tokens`."""
    fed = asked_tokens(probe, row, tokenizer)
    if not fed:
        return None
    length = cache.length(row.cache_row)
    before_j = ledger.spent().spent_j
    read: list[int] = []
    first: Tensor | None = None
    while True:
        now = cache.length(row.cache_row) + len(fed)
        ledger.begin("decode", [RowWork(len(fed), now)])
        logits, _ = model.forward(fed, cache.extend({row.cache_row: len(fed)}), cache)
        read.append(int(logits[0].argmax()))
        ledger.end([Share(row.number, Phase.PROBE, len(fed))])
        ledger.count(Phase.PROBE, len(fed))
        first = logits[0] if first is None else first
        if is_read(probe, row, read):
            break
        fed = [read[-1]]
    cache.truncate(row.cache_row, length)
    return reading(probe, row, tokenizer, read, first, ledger.spent().spent_j - before_j)


def is_read(probe: Probe, row: Row, read: Sequence[int]) -> bool:
    """Whether a probe that has read these tokens is over."""
    return len(read) == probe.max_tokens or read[-1] in row.request.eos_ids


def reading(
    probe: Probe, row: Row, tokenizer: Tokenizer, read: Sequence[int], first: Tensor, energy_j: float
) -> ProbeReading:
    """What the tokens `read` say; `first` (V,) are the logits that the first was chosen from."""
    probabilities = first.log_softmax(-1).exp()
    complete = read[-1] in row.request.eos_ids
    return ProbeReading(
        answer=tokenizer.decode(read[:-1] if complete else read).strip(),
        token_ids=tuple(read),
        probabilities=probabilities,
        entropy=float(torch.special.entr(probabilities).sum()),
        energy_j=energy_j,
        complete=complete,
        choices=_shares(probe.choices, first, tokenizer),
    )


def _shares(choices: Sequence[str], logits: Tensor, tokenizer: Tokenizer) -> Mapping[str, float]:
    """Each choice's part of the probability that the choices have together."""
    if not choices:
        return {}
    from engine.strategy.choices import Choices  # which stands above the decode loop

    return Choices(choices, tokenizer).probabilities(logits)
