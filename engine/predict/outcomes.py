"""One question, one way of answering, what came of it: a line of JSON, `tokenjoule.outcome/1`.

What calibrations and experiments read. A way of answering is called an arm.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TokenjouleError
from engine.strict import an_object, made, read_lines

SCHEMA = "tokenjoule.outcome/1"
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`question`: its id; `query`: its text alone. `correct`: 1 or 0, None where nobody can say.

    `energy_source`: what told the joules ("measured", "curve", "table", "estimate", …). `confidence`: of the
    answer, its probability or its share of the vote. `features`: of the query, the same for all arms.
    `setting`: what outcomes have in common that may stand in one file, where that is known.
    """

    question: str
    query: str
    category: str | None
    arm: str
    correct: int | None
    answer: str | None
    prompt_tokens: int
    new_tokens: int
    energy_j: float | None
    energy_source: str
    elapsed_s: float | None = None
    confidence: float | None = None
    features: tuple[float, ...] | None = None
    setting: str | None = None

    def __post_init__(self) -> None:
        if self.correct not in (0, 1, None):
            raise ValueError(f"correct must be 0, 1 or null, not {self.correct}")
        for name in ("prompt_tokens", "new_tokens", "energy_j", "elapsed_s", "confidence"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, not {value}")


def read_outcomes(path: Path) -> list[Outcome]:
    """Raises `TokenjouleError` naming file, line and field of what is wrong."""
    seen: set[tuple[str, str]] = set()

    def outcome(raw: Any) -> Outcome:
        given = dict(an_object(raw, "the line"))
        if given.pop("schema", None) != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        found: Outcome = made(Outcome, given)
        if (found.question, found.arm) in seen:
            raise ValueError(f"question {found.question!r} had arm {found.arm!r} before")
        seen.add((found.question, found.arm))
        return found

    return read_lines(path, outcome)


def lines_of(outcomes: Iterable[Outcome]) -> str:
    """As a file has them. A number that is not finite is a `ValueError`."""
    lines = (json.dumps({"schema": SCHEMA, **asdict(one)}, allow_nan=False) for one in outcomes)
    return "".join(f"{line}\n" for line in lines)


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """In place of what the file holds. Raises `TokenjouleError`."""
    try:
        path.write_text(lines_of(outcomes), encoding="utf-8")
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True)
class Table:
    """Outcomes as arrays over Q questions and A arms (Q, A), nan where nothing is known.

    `features` (Q, F), None where any question has none. `answers` (Q, A) of str or None.
    """

    arms: tuple[str, ...]
    questions: NDArray[Any]
    queries: NDArray[Any]
    categories: NDArray[Any]
    answers: NDArray[Any]
    correct: Array
    energy_j: Array
    elapsed_s: Array
    prompt_tokens: Array
    new_tokens: Array
    confidence: Array
    features: Array | None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Table":
        """Questions and arms in order of coming. Raises `TokenjouleError` where a question's rows differ."""
        questions = {one.question: one for one in outcomes}
        arms = tuple(dict.fromkeys(one.arm for one in outcomes))
        at = {(one.question, one.arm): one for one in outcomes}
        for one in outcomes:
            last = questions[one.question]
            if (one.query, one.category, one.features) != (last.query, last.category, last.features):
                raise TokenjouleError(f"the rows of question {one.question!r} differ in query or features")

        def by_arm(name: str, kind: type) -> NDArray[Any]:
            rows = [[getattr(at.get((question, arm)), name, None) for arm in arms] for question in questions]
            return np.array(rows, dtype=kind)  # as a number, None becomes nan

        features = [one.features for one in questions.values()]
        known = None not in features
        if known and len({len(part or ()) for part in features}) > 1:
            raise TokenjouleError("questions differ in how many features they have")
        numbers = ("correct", "energy_j", "elapsed_s", "prompt_tokens", "new_tokens", "confidence")
        return cls(
            arms=arms,
            questions=np.array(list(questions), dtype=object),
            queries=np.array([one.query for one in questions.values()], dtype=object),
            categories=np.array([one.category for one in questions.values()], dtype=object),
            answers=by_arm("answer", object),
            features=np.array(features, dtype=np.float64) if known else None,
            **{name: by_arm(name, np.float64) for name in numbers},
        )

    def take(self, rows: Sequence[int] | NDArray[Any]) -> "Table":
        """These questions, in this order."""
        changed: dict[str, Any] = {
            field.name: None if (array := getattr(self, field.name)) is None else array[np.asarray(rows)]
            for field in fields(self)
            if field.name != "arms"
        }
        return replace(self, **changed)
