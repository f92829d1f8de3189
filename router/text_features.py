"""Features of a query's text alone, where no local model reads it: sizes, and hashed words."""

import math
import re
import zlib

import numpy as np

from router.policy import Array

TOKENS = 0  # the column of the length in tokens, estimated
BUCKETS, CATEGORIES = 64, 64  # 16 would fold the 14 categories of MMLU-Pro on each other
_NAMED = 16  # leading columns, the last ones spare: `performance.PLAIN`


def text_features(query: str, category: str | None = None) -> Array:
    """(144,): 16 named, then words and the category by hash (CRC-32, so equal on every machine)."""
    words = re.findall(r"[a-z]+|\d+", query.lower())
    numbers = [word for word in words if word.isdigit()]
    lines = query.count("\n") + 1
    named = (
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
    found = np.zeros(_NAMED + BUCKETS + CATEGORIES)
    found[: len(named)] = [math.log1p(value) for value in named]
    for word in words:
        found[_NAMED + zlib.crc32(word.encode()) % BUCKETS] += 1 / math.sqrt(len(words))
    if category is not None:
        found[_NAMED + BUCKETS + zlib.crc32(category.encode()) % CATEGORIES] = 1.0
    return found
