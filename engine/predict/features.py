"""What a query is like, as numbers for estimators: by its text alone, or by one prefill; runs no model.

A text has its sizes and hashed words. A prefill's are the next token's entropy and margin, the prompt's NLL
and hidden states of two layers, and the text's sizes.
"""

import math
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engine.prefilled import Prefilled

Array = NDArray[np.float64]

PLAIN = 16  # leading columns that have a meaning each; what follows is words, or hidden states
TOKENS = 0  # the column of the length in tokens, estimated
BUCKETS, CATEGORIES = 64, 64  # 16 would fold the 14 categories of MMLU-Pro on each other
_SIZES = 12  # of a text; the others of its plain columns are spare


def text_features(query: str, category: str | None = None) -> Array:
    """(144,): 16 plain, then words and the category by hash (CRC-32, so equal on every machine)."""
    words = _words(query)
    found = np.zeros(PLAIN + BUCKETS + CATEGORIES)
    found[:_SIZES] = _sizes(query, words)
    for word in words:
        found[PLAIN + zlib.crc32(word.encode()) % BUCKETS] += 1 / math.sqrt(len(words))
    if category is not None:
        found[PLAIN + BUCKETS + zlib.crc32(category.encode()) % CATEGORIES] = 1.0
    return found


def _words(query: str) -> list[str]:
    """And numbers."""
    return re.findall(r"[a-z]+|\d+", query.lower())


def _sizes(query: str, words: Sequence[str]) -> list[float]:
    """(_SIZES,), as logarithms."""
    numbers = [word for word in words if word.isdigit()]
    lines = query.count("\n") + 1
    sizes = (
        len(re.findall(r"\w+|[^\w\s]", query)),
        len(query),
        sum(character.isdigit() for character in query),
        len(numbers),
        max((len(number) for number in numbers), default=0),
        sum(not character.isalnum() and not character.isspace() for character in query),
        len(re.findall(r"[.!?](?:\s|$)", query)),
        lines,
        len(set(words)),
        sum(map(len, words)) / max(len(words), 1),
        sum(character.isupper() for character in query),
        len(re.findall(r"^\s*\(?[A-J][.)]", query, re.MULTILINE)),
    )
    return [math.log1p(value) for value in sizes]


def text_rows(queries: Iterable[str], categories: Iterable[str | None]) -> Array:
    """(N, 144)."""
    return np.stack([text_features(*pair) for pair in zip(queries, categories, strict=True)])


def prefill_features(query: str, found: "Prefilled", layers: Sequence[int]) -> Array:
    """(F,): first the plain ones: next token's entropy (nats) and top-2 margin (log-probability), the
    prompt's mean NLL, log of its tokens, sizes of the text. Then hidden states of `layers`, last and mean.
    """
    import torch

    log_p = found.logits.double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).nan_to_num().sum(0, keepdim=True)
    states = torch.cat([part[layer] for layer in layers for part in (found.last, found.mean)])
    # All at once: a device is waited for a single time.
    told = torch.cat([entropy, log_p.topk(2).values, states.double()]).cpu().numpy()
    nll = 0.0 if math.isnan(found.nll) else found.nll
    plain = [told[0], told[1] - told[2], nll, math.log(len(found.token_ids)), *_sizes(query, _words(query))]
    assert len(plain) == PLAIN
    return np.concatenate([plain, told[3:]])
