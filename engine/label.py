"""Labelled results: answers of every arm to questions whose answers are known, as outcomes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from engine.answerers import Answerers
from engine.predict.outcomes import Outcome
from engine.strategy.ask import Technique
from engine.strategy.grading import Kind, grade
from engine.strict import made, read_lines


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


def outcomes(
    answerers: Answerers,
    arms: Mapping[str, tuple[str, Technique]],
    questions: Sequence[Question],
    kind: str,
) -> Iterator[Outcome]:
    """Of every arm and question, with the features of the smallest local model where there is one.

    `arms`: by name, the model and the technique. `kind`: how answers are compared, "exact" or one of `Kind`.
    An arm that fails is wrong, and took what it took; one that never ran tells of no joules. Raises
    `TokenjouleError` where a question cannot be read.
    """
    told = {field.name for field in fields(Outcome)}
    reads = answerers.pool.smallest() is not None
    for one in questions:
        features = tuple(float(f"{x:.6g}") for x in answerers.features(one.prompt)) if reads else None
        for name, (model, way) in arms.items():
            said = answerers.answer(model, one.prompt, way, budget_tokens=way.budget_tokens)
            answer, failed = said.answer or "", said.error is not None
            if kind == "exact":
                right = answer.strip() == one.answer.strip()
            else:
                right = bool(grade(answer, one.answer, Kind(kind), finished=True).correct)
            taken = {name: value for name, value in asdict(said).items() if name in told}
            yield Outcome(
                question=one.id,
                query=one.prompt,
                category=one.category,
                arm=name,
                correct=int(right and not failed),
                features=features,
                **{**taken, **({"energy_j": None} if failed and not said.energy_j else {})},
            )
