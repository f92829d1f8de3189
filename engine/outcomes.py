"""One question, one way of answering, what came of it: a line of JSON, `tokenjoule.outcome/1`.

What calibrations and experiments read. A way of answering is called an arm.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import TokenjouleError
from engine.strict import an_object, made, read_lines

SCHEMA = "tokenjoule.outcome/1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`question`: its id; `query`: its text alone. `correct`: 1 or 0, None where nobody can say.

    `energy_source`: what told the joules ("measured", "curve", "table", "estimate", …). `confidence`: of the
    answer, its probability or its share of the vote. `features`: of the query, the same for all arms.
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


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """As they come. Raises `TokenjouleError`; a number that is not finite is a `ValueError`."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            for outcome in outcomes:
                file.write(json.dumps({"schema": SCHEMA, **asdict(outcome)}, allow_nan=False) + "\n")
                file.flush()
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error
