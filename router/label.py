"""Labelled results: every arm's answer to questions whose answers are known, as outcomes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.strategy.grading import Kind, grade
from engine.strict import made
from router.outcomes import Outcome, read_lines
from router.policy import Choice, Limits
from router.router import Router


@dataclass(frozen=True, slots=True)
class Question:
    """`answer`: the right one."""

    id: str
    prompt: str
    answer: str
    category: str | None = None


def read_questions(path: Path) -> list[Question]:
    """One JSON object a line. Raises `TokenjouleError` naming file and line."""
    return read_lines(path, partial(made, Question))


def outcomes(router: Router, questions: Sequence[Question], kind: str) -> Iterator[Outcome]:
    """Of every arm and question, with the features of the smallest local model where there is one.

    `kind`: how answers are compared, "exact" or one of `Kind`. An arm that fails is wrong, and has its error
    for an answer. Raises `TokenjouleError` where a question cannot be read.
    """
    reads = router.pool.smallest() is not None
    for question in questions:
        features = tuple(float(f"{x:.6g}") for x in router.read(question.prompt)[0]) if reads else None
        for arm in router.arms.arms:
            choice = Choice(arm.name, arm.way.budget_tokens, "")
            stage = router.run(arm, choice, question.prompt, Limits())
            if kind == "exact":
                right = (stage.answer or "").strip() == question.answer.strip()
            else:
                right = bool(grade(stage.answer or "", question.answer, Kind(kind), finished=True).correct)
            yield Outcome(
                question=question.id,
                query=question.prompt,
                category=question.category,
                arm=arm.name,
                correct=int(right and stage.error is None),
                answer=stage.answer,
                prompt_tokens=stage.prompt_tokens,
                new_tokens=stage.new_tokens,
                energy_j=stage.energy_j if stage.error is None else None,
                energy_source=stage.energy_source,
                elapsed_s=stage.elapsed_s,
                confidence=stage.confidence,
                features=features,
            )
