"""Outcomes as arrays over questions and arms: what calibrations and experiments learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TokenjouleError
from engine.outcomes import Outcome
from router.policy import Array


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
