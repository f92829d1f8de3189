"""A chat completion as an OpenAI-compatible server writes it: samples of one prompt and their answers."""

import json
from dataclasses import dataclass
from typing import Any

from engine.strategy.samples import as_written

MOST_TOKENS = 10**8  # of one request: a count beyond it is no count


@dataclass(frozen=True, slots=True)
class Completion:
    """`texts`: of as many choices as were asked for, "" for one without. `answers`: None where one abstains.

    `came`: how many choices there were. `prompt_tokens`, and `new_tokens` of all choices together: 0 where
    the server does not say.
    """

    texts: tuple[str, ...] = ()
    answers: tuple[str | None, ...] = ()
    came: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    @classmethod
    def read(cls, body: bytes, samples: int) -> "Completion":
        """Raises `ValueError` for a body that is no completion. A text's answer is its last line; one that
        was cut at its most tokens has none.
        """
        try:
            value = json.loads(body)
            usage = value.get("usage") or {}
            tokens: Any = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
            choices = value["choices"]
            told = [(each["message"]["content"], each.get("finish_reason")) for each in choices[:samples]]
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a chat completion") from error
        if not told:
            raise ValueError("a chat completion without choices")
        if not all(isinstance(count, int) and 0 < count <= MOST_TOKENS for count in tokens):
            tokens = 0, 0
        texts = tuple(text if isinstance(text, str) else "" for text, _ in told)
        ends = zip(texts, (ended == "length" for _, ended in told), strict=True)
        answers = tuple(None if cut else as_written(text.strip().rsplit("\n", 1)[-1]) for text, cut in ends)
        return cls(texts, answers, len(choices), *tokens)

    @property
    def text(self) -> str:
        """The first that says something."""
        return next(filter(str.strip, self.texts), "")

    def odd(self, samples: int) -> str | None:
        """What is strange about it, where so many were asked for. vLLM before its pull request 11898 gave
        every sample one seed, by which all of them are one.
        """
        if self.came != samples:
            return f"{self.came} of {samples} samples came"
        if samples > 1 and len(set(self.texts)) == 1:
            return f"its {samples} samples are one and the same text"
        return None
