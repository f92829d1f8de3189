"""MT-Bench's questions as prompts (Zheng et al. 2023, arXiv 2306.05685): plain text, no chat template."""

from dataclasses import dataclass
from pathlib import Path

from bench.benchmarks.files import json_lines
from bench.benchmarks.load import BENCHMARKS, stored
from bench.benchmarks.mt_bench import NAME, parse_mt_bench
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
        path = stored(BENCHMARKS[NAME], "test")
        if path is None:
            raise UsageError(f"give MT-Bench's question.jsonl with --questions, or set {DATA}")
    texts = [item.question for item in parse_mt_bench(json_lines(path), turn)]
    if not texts:
        raise TokenjouleError(f"{path} holds no questions")
    return Questions(tuple(texts), turn, path.name)
