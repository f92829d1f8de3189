"""MT-Bench's questions as prompts (Zheng et al. 2023, arXiv 2306.05685): plain text, no chat template."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.passages import DATA
from engine.errors import TokenjouleError, UsageError
from engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Questions:
    """Texts of one turn, in the file's order. Turn 2 is its own text alone, without turn 1 and its answer."""

    texts: tuple[str, ...]
    turn: int
    name: str

    def prompts(self, tokenizer: Tokenizer, count: int) -> tuple[tuple[int, ...], ...]:
        """`count` of them as token ids, spread evenly over the file, hence over its categories."""
        if count > len(self.texts):
            raise UsageError(f"{self.name} holds {len(self.texts)} questions, {count} were asked for")
        step = len(self.texts) / count
        return tuple(tuple(tokenizer.encode(self.texts[int(i * step)])) for i in range(count))

    def exactly(self, tokenizer: Tokenizer, tokens: int) -> tuple[int, ...]:
        """A prompt of exactly so many tokens: all questions in a row, over again if need be, cut."""
        ids = tokenizer.encode("\n".join(self.texts))
        if not ids:
            raise TokenjouleError(f"{self.name} holds no text")
        return tuple((ids * -(-tokens // len(ids)))[:tokens])


def read_questions(path: Path | None, turn: int) -> Questions:
    """From a JSONL file with `turns` in each line; None for MT-Bench's in the test data.

    Raises `UsageError` where there is no such file or turn, `TokenjouleError` for one that cannot be read.
    """
    if path is None:
        root = os.environ.get(DATA)
        if not root:
            raise UsageError(f"give MT-Bench's question.jsonl with --questions, or set {DATA}")
        path = Path(root) / "data" / "mt_bench" / "question.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = [_turn(json.loads(line), turn) for line in lines if line.strip()]
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TokenjouleError(f"{path}: not questions with a turn {turn}: {error!r}") from error
    if not texts:
        raise TokenjouleError(f"{path} holds no questions")
    return Questions(tuple(texts), turn, path.name)


def _turn(line: dict[str, Sequence[str]], turn: int) -> str:
    text = line["turns"][turn - 1]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"turn {turn} is {text!r}")
    return text
