"""How a model marks its thinking: the tokens that open and close it, as text.

Owns the format and where it is found. The decode loop decides what phase a row is in; policies decide when
thinking has cost enough.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine.config import read_json
from engine.errors import TokenjouleError
from engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """`opener` … `closer` `answer_prefix` answer. `opener` None: generation starts inside the thinking phase.

    `answer_prefix`: what stands between the closer and the answer, so that a forced answer starts as a free
    one does. `step_separator`: what ends one step of reasoning.
    """

    opener: str | None
    closer: str
    answer_prefix: str
    step_separator: str

    @classmethod
    def discover(cls, directory: Path, tokenizer: Tokenizer) -> "ThinkingFormat | None":
        """The format of a checkpoint, None when it does not think.

        `"thinking"` in generation_config.json decides; else the added tokens <think> and </think> do, as
        DeepSeek-R1 and Qwen3 have them. Raises `TokenjouleError` naming the keys that are wrong.
        """
        path = directory / "generation_config.json"
        config = read_json(path) if path.is_file() else {}
        if "thinking" in config:
            return cls._parse(config["thinking"], path)
        if tokenizer.token_id("<think>") is None or tokenizer.token_id("</think>") is None:
            return None
        return cls("<think>", "</think>", "\n\n", "\n\n")

    @classmethod
    def _parse(cls, value: Any, path: Path) -> "ThinkingFormat":
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise TokenjouleError(f"{path}: thinking must be an object with {', '.join(names)}")
        unknown = [name for name in value if name not in names]
        missing = [name for name in names if name not in value]
        wrong = [
            name
            for name in names
            if name in value
            and not isinstance(value[name], str)
            and not (name == "opener" and value[name] is None)
        ]
        if value.get("closer") == "":
            wrong.append("closer")  # an empty one would close every thought at once
        for problem, keys in (("unknown", unknown), ("missing", missing), ("wrong value for", wrong)):
            if keys:
                raise TokenjouleError(f"{path}: thinking: {problem} {', '.join(keys)}")
        return cls(**value)

    def closer_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids that end the thinking when inserted after thoughts."""
        return tokenizer.encode_inside(self.closer)

    def answer_prefix_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids to insert after the closer, before the answer."""
        return tokenizer.encode_inside(self.answer_prefix)
