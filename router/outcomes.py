"""What calibrations and experiments read: one line for each question and arm, `tokenjoule.outcome/1`."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TokenjouleError
from router.policy import Array

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


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("question", "query", "arm", "energy_source"), (str,)),
    **dict.fromkeys(("category", "answer"), (str, type(None))),
    **dict.fromkeys(("prompt_tokens", "new_tokens"), (int,)),
    **dict.fromkeys(("energy_j", "elapsed_s", "confidence"), (int, float, type(None))),
    "correct": (int, type(None)),
    "features": (list, type(None)),
}


def read_outcomes(path: Path) -> list[Outcome]:
    """Raises `TokenjouleError` naming file, line and field of what is wrong."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenjouleError(f"cannot read outcomes from {path}: {error}") from error
    found: list[Outcome] = []
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                outcome = _outcome(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise TokenjouleError(f"{path}, line {number}: {error}") from error
            if (outcome.question, outcome.arm) in seen:
                what = f"question {outcome.question!r} with arm {outcome.arm!r} was there before"
                raise TokenjouleError(f"{path}, line {number}: {what}")
            seen.add((outcome.question, outcome.arm))
            found.append(outcome)
    if not found:
        raise TokenjouleError(f"{path} holds no outcomes")
    return found


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Raises `OSError`; a number that is not finite is a `ValueError`."""
    lines = [json.dumps({"schema": SCHEMA, **asdict(outcome)}, allow_nan=False) for outcome in outcomes]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _outcome(value: Any) -> Outcome:
    names = {"schema", *(field.name for field in fields(Outcome))}
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ValueError(f"no object of schema {SCHEMA}")
    if wrong := sorted(names ^ value.keys()):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}")
    for name, kinds in _KINDS.items():
        given = value[name]
        if not isinstance(given, kinds) or isinstance(given, bool) or given in (np.inf, -np.inf):
            raise ValueError(f"{name} cannot be {given!r}")
        if isinstance(given, int | float) and not given >= 0:
            raise ValueError(f"{name} must be at least 0, not {given}")
    if value["correct"] not in (0, 1, None):
        raise ValueError(f"correct must be 0, 1 or null, not {value['correct']}")
    numbers = value.pop("features")
    value.pop("schema")
    return Outcome(**value, features=None if numbers is None else tuple(float(part) for part in numbers))


@dataclass(frozen=True)
class Table:
    """Outcomes as arrays over Q questions and A arms (Q, A), nan where nothing is known.

    `features` (Q, F), None where any question has none. `answers`: by question, then by arm.
    """

    questions: tuple[str, ...]
    queries: tuple[str, ...]
    categories: tuple[str | None, ...]
    arms: tuple[str, ...]
    answers: tuple[tuple[str | None, ...], ...]
    correct: Array
    energy_j: Array
    elapsed_s: Array
    prompt_tokens: Array
    new_tokens: Array
    confidence: Array
    features: Array | None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Table":
        """Questions and arms in order of their first line. Raises `TokenjouleError` for features that differ."""
        first = {outcome.question: outcome for outcome in reversed(outcomes)}
        questions = tuple(dict.fromkeys(outcome.question for outcome in outcomes))
        arms = tuple(dict.fromkeys(outcome.arm for outcome in outcomes))
        at = {(outcome.question, outcome.arm): outcome for outcome in outcomes}
        for outcome in outcomes:
            if (outcome.query, outcome.features) != (
                (shared := first[outcome.question]).query,
                shared.features,
            ):
                raise TokenjouleError(f"question {outcome.question!r} has two queries or sets of features")

        def of_arms(name: str) -> Array:
            rows = [[getattr(at.get((q, a)), name, None) for a in arms] for q in questions]
            return np.array(rows, dtype=np.float64)  # None becomes nan

        features = [first[q].features for q in questions]
        if None not in features and len({len(part) for part in features if part is not None}) > 1:
            raise TokenjouleError("questions differ in how many features they have")
        return cls(
            questions,
            tuple(first[q].query for q in questions),
            tuple(first[q].category for q in questions),
            arms,
            tuple(tuple(getattr(at.get((q, a)), "answer", None) for a in arms) for q in questions),
            *(of_arms(name) for name in ("correct", "energy_j", "elapsed_s")),
            *(of_arms(name) for name in ("prompt_tokens", "new_tokens", "confidence")),
            None if None in features else np.array(features, dtype=np.float64),
        )

    def take(self, rows: Sequence[int] | NDArray[np.int_]) -> "Table":
        """These questions, in this order."""
        picked = [int(row) for row in rows]
        changed = {
            name: tuple(getattr(self, name)[row] for row in picked)
            for name in ("questions", "queries", "categories", "answers")
        }
        arrays = ("correct", "energy_j", "elapsed_s", "prompt_tokens", "new_tokens", "confidence", "features")
        kept = {name: getattr(self, name) for name in arrays}
        return replace(self, **changed, **{n: None if a is None else a[picked] for n, a in kept.items()})
