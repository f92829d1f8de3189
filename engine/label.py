"""Labelled results: answers of every arm to questions whose answers are known, as outcomes."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import monotonic
from typing import Any

from engine.answerers import Answerers
from engine.errors import TokenjouleError, UsageError
from engine.line_file import add, alone, mend
from engine.predict.outcomes import Outcome, lines_of, read_outcomes
from engine.strategy.ask import Technique
from engine.strategy.grading import Kind, grade
from engine.strict import made, read_lines

Arms = Mapping[str, tuple[str, Technique]]  # by name, the model and the technique
_TELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """`answer`: the right one."""

    id: str
    prompt: str
    answer: str
    category: str | None = None


def read_questions(path: Path, least: int = 1) -> list[Question]:
    """One JSON object a line. Raises `TokenjouleError` naming file and line, and for fewer than `least`
    different prompts: what is too few is to be said before it has cost anything.
    """
    seen: set[str] = set()

    def question(raw: Any) -> Question:
        found: Question = made(Question, raw)
        if found.id in seen:
            raise ValueError(f"the id {found.id!r} was there before")
        if not found.prompt.strip():
            raise ValueError("prompt is empty")
        seen.add(found.id)
        return found

    questions = read_lines(path, question)
    if (count := len({one.prompt for one in questions})) < least:
        raise TokenjouleError(f"{path} has {count} different questions; at least {least} are needed")
    return questions


def outcomes_of(path: Path, arms: Collection[str], digest: str) -> list[Outcome]:
    """A file's, of exactly these arms. Raises `UsageError` for those of others, of which one may be called
    alike: by the `digest` of the arms, where the file tells it.
    """
    found = read_outcomes(path)
    named = dict.fromkeys(one.arm for one in found)
    if named.keys() != set(arms):
        raise UsageError(f"{path} is of the arms {', '.join(named)}; not those at hand, {', '.join(arms)}")
    for told in dict.fromkeys(one.setting for one in found if one.setting):
        if not told.startswith(_of_arms(digest)):
            raise UsageError(f"{path} is of {told}, which have changed: they are {_of_arms(digest)} now")
    return found


def _of_arms(digest: str) -> str:
    return f"arms {digest}"


def collect(
    path: Path,
    answerers: Answerers,
    arms: Arms,
    questions: Sequence[Question],
    kind: str,
    *,
    digest: str,
    say: Callable[[str], None],
) -> None:
    """Add to a file of outcomes what it lacks of `arms` and `questions`, a question at a time.

    `digest`: of the arms; with `kind` it is the setting that all outcomes of a file have in common. `say`: of
    how far it has come. Raises `TokenjouleError` where a question cannot be read, `UsageError` for a file of
    another setting or question.
    """
    setting = f"{_of_arms(digest)}, graded {kind}"
    with alone(path):
        mend(path, '{"schema":', "an outcome")
        held = read_outcomes(path) if path.stat().st_size else []
        _refuse_others(held, questions, setting, path)
        done = {(one.question, one.arm) for one in held}
        due = [one for one in questions if any((one.id, arm) not in done for arm in arms)]
        say(f"{len(due)} questions to run, {len(questions) - len(due)} in {path}")
        told_s = monotonic()
        for number, found in enumerate(outcomes(answerers, arms, due, kind, done=done), 1):
            add(path, lines_of(replace(one, setting=setting) for one in found))
            if monotonic() - told_s >= _TELL_S:
                told_s = monotonic()
                say(f"{number} of {len(due)} questions")


def _refuse_others(held: Sequence[Outcome], questions: Sequence[Question], setting: str, path: Path) -> None:
    """A file that mixes both would tell of neither."""
    asked = {one.id: one for one in questions}
    for one in held:
        if one.setting != setting:
            was = f"was {one.setting}" if one.setting else "is not told"
            raise UsageError(f"{path}: the setting {was}, and is {setting} now: name another file")
        here = asked.get(one.question)
        if here is not None and (here.prompt, here.category) != (one.query, one.category):
            raise UsageError(f"{path}: question {one.question!r} was another: name another file")


def outcomes(
    answerers: Answerers,
    arms: Arms,
    questions: Sequence[Question],
    kind: str,
    *,
    done: Collection[tuple[str, str]] = (),
) -> Iterator[list[Outcome]]:
    """Of each question, all arms but those `done`, with the features of the smallest local model where there
    is one.

    `kind`: how answers are compared, "exact" or one of `Kind`. An arm that fails is wrong, and took what it
    took; one that never ran tells of no joules. Raises `TokenjouleError` where a question cannot be read.
    """
    reads = answerers.pool.smallest() is not None
    for one in questions:
        try:
            features = tuple(float(f"{x:.6g}") for x in answerers.features(one.prompt)) if reads else None
        except TokenjouleError as error:
            raise TokenjouleError(f"question {one.id!r} cannot be read: {error}") from error
        left = ((name, *arm) for name, arm in arms.items() if (one.id, name) not in done)
        yield [_outcome(one, name, answerers, model, way, kind, features) for name, model, way in left]


def _outcome(
    one: Question,
    arm: str,
    answerers: Answerers,
    model: str,
    way: Technique,
    kind: str,
    features: tuple[float, ...] | None,
) -> Outcome:
    said = answerers.answer(model, one.prompt, way, budget_tokens=way.budget_tokens)
    answer, failed = said.answer or "", said.error is not None
    if kind == "exact":
        right = answer.strip() == one.answer.strip()
    else:
        right = bool(grade(answer, one.answer, Kind(kind), finished=True).correct)
    told = {field.name for field in fields(Outcome)}
    taken = {name: value for name, value in asdict(said).items() if name in told}
    return Outcome(
        question=one.id,
        query=one.prompt,
        category=one.category,
        arm=arm,
        correct=int(right and not failed),
        features=features,
        **{**taken, **({"energy_j": None} if failed and not said.energy_j else {})},
    )
