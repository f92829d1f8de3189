"""Labelled results: every arm's answer to questions whose answers are known, as outcomes."""

import json
from collections.abc import Iterator
from pathlib import Path

from engine.errors import TokenjouleError
from engine.strategy.grading import Kind, grade
from engine.strict import made
from router.outcomes import Outcome
from router.policy import Choice, Limits
from router.router import Router


def read_questions(path: Path) -> list[dict[str, str]]:
    """Lines {"id", "prompt", "answer", "category" optional}. Raises `TokenjouleError` naming file and line."""
    found, number = [], 0
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                given = json.loads(line)
                if set(given) - {"category"} != {"id", "prompt", "answer"}:
                    raise ValueError("needs id, prompt and answer, and may have a category")
                found.append({name: made(str, value, name) for name, value in given.items()})
    except (OSError, ValueError, TypeError) as error:
        raise TokenjouleError(f"{path}, line {number}: {error}") from error
    return found


def outcomes(router: Router, questions: list[dict[str, str]], kind: str) -> Iterator[Outcome]:
    """Of every arm and question, with the features of the smallest local model where there is one.

    `kind`: how answers are compared, "exact" or one of `Kind`. An arm that fails is wrong, and has its error
    for an answer. Raises `TokenjouleError` where a question cannot be read.
    """
    reads = router.pool.smallest() is not None
    for question in questions:
        features = tuple(router.read(question["prompt"])[1].tolist()) if reads else None
        for arm in router.arms.arms:
            choice = Choice(arm.name, arm.way.budget_tokens, "")
            stage = router.run(arm, choice, question["prompt"], Limits())
            if kind == "exact":
                right = (stage.answer or "").strip() == question["answer"].strip()
            else:
                right = bool(grade(stage.answer or "", question["answer"], Kind(kind), finished=True).correct)
            yield Outcome(
                question=question["id"],
                query=question["prompt"],
                category=question.get("category"),
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
