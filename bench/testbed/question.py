"""A question as an evaluation sees it, and its verifier."""

from dataclasses import dataclass

FAMILIES = ("chain", "verify", "search", "recall")
CHOICE = "-choice"
CATEGORIES = (*FAMILIES, *(family + CHOICE for family in FAMILIES))


@dataclass(frozen=True, slots=True)
class Question:
    """`category`: one of `CATEGORIES`. `seed`: draws it again, see `bench.testbed.sample.numbered`."""

    prompt: str
    answer: str
    category: str
    difficulty: int
    seed: int


def accepts(question: Question, answer: str | None) -> bool:
    """Whether an answer is right. None, from a row that never answered, is not."""
    return answer is not None and answer.strip() == question.answer
