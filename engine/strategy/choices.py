"""One forward's distribution over a few answers of one token each, and draws from it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.errors import Cancelled, TokenjouleError, UsageError
from engine.result import Generation
from engine.sampler import Draw, Sampling, sample_rows
from engine.steps import Prefill, Step
from engine.tokenizer import Tokenizer

MOST_CHOICES = 26


class FirstLogits:
    """Keeps what the first token was chosen from."""

    needs = frozenset({"logits"})

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def on_prefill(self, prefill: Prefill) -> None:
        """Nothing yet."""

    def on_step(self, step: Step) -> None:
        if step.index == 0:
            self.logits = step.logits()

    def on_end(self, result: Generation) -> None:
        """All is read."""


class Choices:
    """The `answers` as a model writes them: by a token of its own, with a space before it or without.

    Raises `UsageError` for an answer that is no single token of this model.
    """

    def __init__(self, answers: Sequence[str], tokenizer: Tokenizer) -> None:
        check_answers(answers)
        self.answers = tuple(answers)
        self._ids = [_spellings(answer, tokenizer) for answer in answers]
        taken = [token for ids in self._ids for token in ids]
        if len(set(taken)) != len(taken):
            raise UsageError(f"two of the choices {', '.join(answers)} are the same token of this model")

    def token_id(self, answer: str) -> int:
        return self._ids[self.answers.index(answer)][0]

    def probabilities(self, logits: Tensor) -> dict[str, float]:
        """Of each answer, as if there were no others; logits (V,)."""
        parts = torch.stack([logits[ids].double().logsumexp(-1) for ids in self._ids])
        return dict(zip(self.answers, parts.softmax(-1).tolist(), strict=True))

    def draw(
        self, probabilities: Mapping[str, float], count: int, sampling: Sampling, position: int
    ) -> list[str]:
        """`count` answers, as rows 0 … `count` - 1 would choose them at `position`."""
        logits = torch.tensor([list(probabilities.values())], dtype=torch.float64).log().float()
        draws = [Draw(sampling, (), row, position) for row in range(count)]
        return [self.answers[index] for index in sample_rows(logits.expand(count, -1), draws)]


def check_answers(answers: Sequence[str]) -> None:
    """Raises `UsageError` unless there are two answers or more, none empty, no two the same."""
    if not 2 <= len(answers) <= MOST_CHOICES or len(set(answers)) != len(answers) or not all(answers):
        raise UsageError(
            f"choices are 2 to {MOST_CHOICES} different answers, not {', '.join(answers) or 'none'}"
        )


def read_logits(reader: FirstLogits, error: str | None) -> Tensor:
    """What was read. Raises `TokenjouleError` where the request never came that far."""
    if reader.logits is not None:
        return reader.logits
    if error is None:
        raise Cancelled("cancelled before the first token")
    raise TokenjouleError(error)


def _spellings(answer: str, tokenizer: Tokenizer) -> list[int]:
    found = [tokenizer.encode_inside(text) for text in (answer, f" {answer}")]
    single = [ids[0] for ids in found if len(ids) == 1 and tokenizer.decode(ids).strip() == answer]
    if not single:
        raise UsageError(f"the choice {answer!r} is not a single token of this model")
    return list(dict.fromkeys(single))
