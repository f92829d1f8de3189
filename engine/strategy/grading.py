"""Right, wrong, unreadable, or cut short: what a written answer is worth against the reference.

Letters are compared exactly, numbers as exact fractions, mathematics by Hugging Face's math-verify, which
parses LaTeX to sympy (`pip install -e '.[grade]'`). An answer that a budget cut off is counted apart: it is
not wrong, it was never given (vLLM's and others' harnesses score it wrong, which hides what a budget costs).
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import TokenjouleError
from engine.strategy import answers

SECONDS = 5  # for one comparison: sympy may try to simplify for ever


class Kind(StrEnum):
    """What an answer is, which decides how it is found and compared."""

    CHOICE = "choice"
    NUMBER = "number"
    MATH = "math"


@dataclass(frozen=True, slots=True)
class Grade:
    """`answer`: as it was found, None where none was. `correct`: None where `censored`.

    `unparsed`: the text ended by itself, but no answer can be read in it; it counts as wrong, visibly.
    `censored`: a budget or limit ended the text before its answer.
    """

    answer: str | None
    correct: bool | None
    unparsed: bool
    censored: bool


def grade(text: str, reference: str, kind: Kind, *, finished: bool, letters: str = "ABCD") -> Grade:
    """What `text` is worth. `finished`: the model ended it by itself; `letters`: of the choices.

    A text that was cut may hold its answer already, where it stands in a form that is only used for final
    answers; of a cut text no last number is taken for one. Raises `TokenjouleError` without math-verify.
    """
    found = find(text, kind, letters=letters) if finished else find_final(text, kind, letters=letters)
    if found is None:
        return Grade(None, False if finished else None, unparsed=finished, censored=not finished)
    return Grade(found, equal(found, reference, kind), unparsed=False, censored=False)


def find(text: str, kind: Kind, *, letters: str = "ABCD") -> str | None:
    """The answer in a finished text."""
    if kind is Kind.CHOICE:
        return answers.choice(text, letters)
    return answers.number(text) if kind is Kind.NUMBER else answers.expression(text)


def find_final(text: str, kind: Kind, *, letters: str = "ABCD") -> str | None:
    """The answer in a text that was cut off: only where it says that this is the answer, or boxes it."""
    if kind is Kind.CHOICE:
        return answers.stated_choice(text, letters)
    inside = answers.boxed(text)
    if kind is Kind.NUMBER:
        return None if inside is None else answers.number(inside)
    return inside


def equal(answer: str, reference: str, kind: Kind) -> bool:
    """Whether two answers are the same. Raises `TokenjouleError` where mathematics needs math-verify."""
    if kind is Kind.CHOICE:
        return answer == reference.strip()
    if kind is Kind.NUMBER:
        given = answers.value(answer)
        return given is not None and given == answers.value(reference)
    if answer.strip() == reference.strip():
        return True
    return _verified(answer, reference)


def _verified(answer: str, reference: str) -> bool:
    """Equal as mathematics. A comparison that fails or takes too long is "not equal", as in the library."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise TokenjouleError("grading mathematics needs math-verify: pip install -e '.[grade]'") from error
    # Its clock is SIGALRM, which only the main thread may set.
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    left, right = (parse(f"${text}$", parsing_timeout=seconds) for text in (reference, answer))
    return bool(verify(left, right, timeout_seconds=seconds))


def accuracy(grades: Sequence[Grade]) -> tuple[float, int, int, int]:
    """(share correct of those not censored, not censored, censored, unparsed); NaN where all are censored."""
    judged = [grade for grade in grades if not grade.censored]
    share = sum(bool(grade.correct) for grade in judged) / len(judged) if judged else math.nan
    return share, len(judged), len(grades) - len(judged), sum(grade.unparsed for grade in grades)
