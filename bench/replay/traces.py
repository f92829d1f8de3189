"""Stored outputs of real models as traces: a text, the answer in it, and whether that is right.

The four sources are told apart by what they hold; none stores token counts, and none holds an answer that was
forced before the text's own end.
"""

import gzip
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import TokenjouleError, UsageError
from engine.strategy import answers
from engine.strategy.grading import Kind, equal


@dataclass(frozen=True, slots=True)
class Trace:
    """One stored text. `answer`: None where none can be read. `prompt`: what is stored of it. `query`: what
    is asked, alone.

    `key`: answers with equal keys are one vote; None abstains.
    """

    source: str
    model: str
    question: str
    category: str
    sample: int
    query: str
    prompt: str
    text: str
    answer: str | None
    key: str | None
    correct: bool


@dataclass(frozen=True, slots=True)
class Source:
    """`files`: below the test data. `prompt_note`: how much of the prompt is stored. `sampled`: several texts
    a question, by which votes can be replayed.
    """

    name: str
    files: str
    prompt_note: str
    sampled: bool
    parse: Callable[[Path, Sequence[Mapping[str, Any]]], Iterator[Trace]]


def read_traces(source: Source, path: Path, limit: int | None = None) -> list[Trace]:
    """The traces of one file, of its first `limit` questions. Raises `TokenjouleError` for a broken file."""
    rows = _rows(path)[:limit]
    try:
        return list(source.parse(path, rows))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise TokenjouleError(f"{path} is no output file of {source.name}: {error!r}") from error


def source_of(name: str) -> Source:
    """Raises `UsageError`."""
    if name not in SOURCES:
        raise UsageError(f"unknown traces {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of .json, .jsonl, .json.gz, or the one .json in a .zip."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                raw = archive.read(next(name for name in archive.namelist() if name.endswith(".json")))
        else:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
        rows = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else None
        )
        found = json.loads(text) if rows is None else rows
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, StopIteration) as error:
        raise TokenjouleError(f"{path} holds no stored outputs: {error}") from error
    if not isinstance(found, list) or not found:
        raise TokenjouleError(f"{path} holds no list of stored outputs")
    return found


def _mmlu_pro(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[Trace]:
    """Graded here: the stored `pred` of two of the models is a guess where no answer could be read."""
    model = path.stem.removeprefix("model_outputs_").removesuffix("_5shots").replace("3_1", "3.1")
    for row in rows:
        text = row["generated_text"]
        answer = answers.stated_choice(text, "ABCDEFGHIJ")
        options = "\n".join(
            f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJ", row["options"], strict=False)
        )
        yield Trace(
            source="mmlu-pro",
            model=model,
            question=str(row["question_id"]),
            category=row["category"],
            sample=0,
            query=f"{row['question']}\n{options}",
            prompt=f"{row['question']}\n{row['options']}",
            text=text,
            answer=answer,
            key=answer,
            correct=answer == row["answer"],
        )


_FIELD = re.compile(r'"answer"\s*:\s*"?([^"\n}]*)')


def _zeroeval(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[Trace]:
    for row in rows:
        text, reference = row["output"][0], row["answer"].lstrip("# ")
        said = _FIELD.findall(text)
        answer = answers.number(said[-1]) if said else answers.number(text)
        yield Trace(
            source="zeroeval",
            model=path.name.partition(".json")[0].partition("@")[0],
            question=row["id"],
            category="grade school",
            sample=0,
            query=row["question"],
            prompt=row["model_input"],
            text=text,
            answer=answer,
            key=answer,
            correct=answer is not None and equal(answer, reference, Kind.NUMBER),
        )


def _maj8(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[Trace]:
    """Answers and their grading as stored: by the authors' own grader."""
    for row in rows:
        for sample, (text, answer, right) in enumerate(
            zip(row["code"], row["pred"], row["score"], strict=True)
        ):
            yield Trace(
                source="maj8",
                model="unnamed (Qwen2.5-Math's example)",
                question=str(row["idx"]),
                category=row["level"],
                sample=sample,
                query=row["question"],
                prompt=row["question"],
                text=text,
                answer=answer or None,
                key=answer or None,
                correct=bool(right),
            )


def _game24(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[Trace]:
    """A vote is for the expression as it is written, without spaces."""
    for row in rows:
        for sample, (text, info) in enumerate(zip(row["ys"], row["infos"], strict=True)):
            _, mark, rest = text.rpartition("Answer:")
            answer = rest.strip() if mark else None
            yield Trace(
                source="game24",
                model="gpt-4",
                question=str(row["idx"]),
                category="game of 24",
                sample=sample,
                query="",
                prompt="",
                text=text,
                answer=answer or None,
                key=re.sub(r"\s+", "", answer.lower()) if answer else None,
                correct=bool(info["r"]),
            )


SOURCES = {
    one.name: one
    for one in (
        Source(
            "mmlu-pro",
            "mmlu_pro_outputs/*.zip",
            "question and options alone: the five examples are not stored",
            False,
            _mmlu_pro,
        ),
        Source("zeroeval", "zeroeval/gsm/*.json.gz", "the whole prompt", False, _zeroeval),
        Source("maj8", "qwen25math_maj8/*.jsonl", "the question alone", True, _maj8),
        Source("game24", "tot_game24/*.json", "not stored", True, _game24),
    )
}
