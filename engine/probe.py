"""A probe: what the row would answer now, read on its own cache and taken back.

The row's cache holds all its tokens when a probe runs; the probe's tokens are appended, read greedily, and
truncated away, which leaves the cache bit for bit as it was.
"""

import torch

from engine.cache import KVCache
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.errors import TokenjouleError
from engine.model import Model
from engine.rows import Row
from engine.steps import Phase, Probe, ProbeReading
from engine.tokenizer import Tokenizer
from kernels.cost import RowWork

PROBE_ROOM = 512  # cache positions a probe may take beyond the row


def run_probe(
    model: Model, tokenizer: Tokenizer, cache: KVCache, ledger: Ledger, row: Row, probe: Probe
) -> ProbeReading | None:
    """The reading, booked under `probe`; None where the context has no room for it.

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
    length = cache.length(row.cache_row)
    if length + len(asked) + probe.max_tokens > row.max_context:
        return None
    before_j = ledger.spent().spent_j
    read: list[int] = []
    first: torch.Tensor | None = None
    fed = asked
    while True:
        now = cache.length(row.cache_row) + len(fed)
        ledger.begin("decode", [RowWork(len(fed), now)])
        logits, _ = model.forward(fed, cache.extend({row.cache_row: len(fed)}), cache)
        read.append(int(logits[0].argmax()))
        ledger.end([Share(row.number, Phase.PROBE, len(fed))])
        ledger.count(Phase.PROBE, len(fed))
        first = logits[0] if first is None else first
        if len(read) == probe.max_tokens or read[-1] in row.request.eos_ids:
            break
        fed = [read[-1]]
    cache.truncate(row.cache_row, length)
    log_probabilities = first.log_softmax(-1)
    probabilities = log_probabilities.exp()
    return ProbeReading(
        answer=tokenizer.decode(read).strip(),
        token_ids=tuple(read),
        probabilities=probabilities,
        entropy=float(torch.special.entr(probabilities).sum()),
        energy_j=ledger.spent().spent_j - before_j,
    )
