"""How many tokens stored texts have, by one tokenizer for all of them; counted once and kept.

Other models' own tokenizers would give other counts: every figure says by which it was counted.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from engine.cache_dir import cache_dir
from engine.errors import TokenjouleError
from engine.tokenizer import Tokenizer

BATCH = 1024  # texts; more at once holds more encodings in memory and is no faster


class TokenCounter:
    """`directory`: of a model, with its tokenizer.json. Raises `TokenjouleError` without one."""

    def __init__(self, directory: Path) -> None:
        self.name = directory.resolve().name
        self._directory = directory
        try:
            self._digest = hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest()
        except OSError as error:
            raise TokenjouleError(f"cannot read {directory}/tokenizer.json: {error.strerror}") from error
        self._tokenizer: Tokenizer | None = None

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones; from the cache where these texts were counted before."""
        key = hashlib.sha256(self._digest.encode())
        for text in texts:
            key.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        path = cache_dir() / "token-counts" / f"{key.hexdigest()[:32]}.json"
        kept = _read(path)
        if kept is not None and len(kept) == len(texts):
            return kept
        found = self._count(texts)
        _write(path, found)
        return found

    def _count(self, texts: Sequence[str]) -> list[int]:
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self._directory)
        found: list[int] = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            encoded = self._tokenizer.backend.encode_batch_fast(batch, add_special_tokens=False)
            found += [len(one.ids) for one in encoded]
        return found


def _read(path: Path) -> list[int] | None:
    """None for a file that is not there or is broken: it is counted again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(kept, list) and all(isinstance(count, int) for count in kept)
    return kept if whole else None


def _write(path: Path, counts: Sequence[int]) -> None:
    """In one piece. A cache that cannot be written costs time, nothing else."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(list(counts)), encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
