"""Real text for teacher forcing: which tokens a model reads, and from which one on it is judged.

The bundled model reads held-out problems of its own task with their full solutions, and is judged on the
solutions alone: the digits of a problem are random. TinyStories models read `texts/stories.txt`, four stories
written for this benchmark in the words of such a model. Any other model needs a file.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from bench.train.chain_task import ANSWER_PREFIX, BOS, CLOSER, EOS, MAX_OPERATIONS, TOKEN_ID, sample_chain
from engine.errors import TokenjouleError, UsageError
from engine.locate import BUNDLED
from engine.tokenizer import Tokenizer

STORIES = Path(__file__).parent / "texts" / "stories.txt"
CHAINS_PER_LENGTH, CHAIN_SEED = 2, 0
DATA = "TOKENJOULE_DATA"  # the root of the test data, with data/ and models/ in it


@dataclass(frozen=True, slots=True)
class Passage:
    """`ids` as a model reads them; it is judged on predicting those from index `judged` >= 1 on."""

    ids: tuple[int, ...]
    judged: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.judged < len(self.ids):
            raise ValueError(f"{len(self.ids)} tokens cannot be judged from {self.judged} on")

    @property
    def targets(self) -> tuple[int, ...]:
        return self.ids[self.judged :]


def stories_directory() -> Path | None:
    """The TinyStories model of the test data; None where there is no test data."""
    root = os.environ.get(DATA)
    return Path(root) / "models" / "stories260K" if root else None


def passages_for(directory: Path, text: Path | None, tokenizer: Tokenizer, context: int) -> list[Passage]:
    """What the model in `directory` is judged on: `text`, else what is known for it.

    Raises `UsageError` where neither is, and for a text that cannot be read or holds too little.
    """
    if text is None and directory.resolve() == BUNDLED.resolve():
        return chain_passages()
    if text is None:
        stories = stories_directory()
        if stories is None or directory.resolve() != stories.resolve():
            raise UsageError(f"no text is known for {directory}; give one with --text FILE")
        text = STORIES
    return text_passages(text, tokenizer, context)


def chain_passages(per_length: int = CHAINS_PER_LENGTH) -> list[Passage]:
    """Held-out problems of 1 to 12 operations, solved; the same ones on every call."""
    rng = random.Random(CHAIN_SEED)
    found = []
    for operations in range(1, MAX_OPERATIONS + 1):
        for _ in range(per_length):
            chain = sample_chain(rng, operations, held_out=True)
            prompt = [BOS, *chain.prompt]
            tokens = [*prompt, *"".join(chain.steps), CLOSER, ANSWER_PREFIX, *str(chain.result), EOS]
            found.append(Passage(tuple(TOKEN_ID[token] for token in tokens), len(prompt)))
    return found


def text_passages(path: Path, tokenizer: Tokenizer, context: int) -> list[Passage]:
    """One passage for each part between empty lines, cut to the model's context of so many tokens."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenjouleError(f"{path} is not UTF-8 text") from error
    parts = [tuple(tokenizer.encode(part.strip())[:context]) for part in text.split("\n\n")]
    found = [Passage(ids) for ids in parts if len(ids) > 1]
    if not found:
        raise UsageError(f"{path} holds no passage of two tokens or more")
    return found
