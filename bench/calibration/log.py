"""The checkpoint log: what a run would have answered at each checkpoint, and the joules. An open format.

One JSON object a line, schema `tokenjoule.checkpoint/1`; docs/stopping.md explains every field. The lines of
one question stand together in the order of their checkpoints. The last one is the end of its thinking, by
itself (`closed`) or where the context ran out; the others are forced answers at the first token (checkpoint
0) and at the end of each step.
"""

import gzip
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import get_origin

from engine.errors import TokenjouleError, UsageError
from engine.line_file import add
from engine.stop.rule import Axes, Cell
from engine.stop.signals import Signals

SCHEMA = "tokenjoule.checkpoint/1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint of one question.

    `think_tokens`: thinking tokens up to here, a closer of the model's own included. `answer` as it was
    forced here, `correct` by the question's verifier. `confidence`: probability of its first token, `entropy`
    (nats) of that token's distribution; null at the end of a run, where nothing was probed. `stability`,
    `tail`, `surprisal`: see `engine.stop.signals`; the last is null in logs of engines that do not tell it.
    `energy_j`: of the request up to here, probes left out; `probe_j`: of this checkpoint's probe; `answer_j`:
    of closing and answering here. `ledger_j`: at a run's end what the meter booked for the whole run, probes
    included; else null. `energy_source`: whose joules. `states`: see `bench.calibration.states`; null where
    none were asked for.
    """

    model: str
    quantization: str
    category: str
    question: str
    seed: int
    split: str
    prompt_tokens: int
    checkpoint: int
    think_tokens: int
    answer: str
    correct: bool
    confidence: float | None
    entropy: float | None
    stability: int
    tail: str
    closed: bool
    energy_j: float
    probe_j: float
    answer_j: float
    energy_source: str
    ledger_j: float | None = None
    surprisal: float | None = None
    states: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("energy_j", "probe_j", "answer_j"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, not {value}")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence must lie in [0, 1], not {self.confidence}")
        if self.surprisal is not None and not (math.isfinite(self.surprisal) and self.surprisal >= 0):
            raise ValueError(f"surprisal must be finite and not negative, not {self.surprisal}")


@dataclass(frozen=True)
class Trace:
    """One question's run: its checkpoints, and the end of its thinking."""

    checkpoints: tuple[Entry, ...]
    end: Entry

    @cached_property
    def seen(self) -> tuple[Signals, ...]:
        """The checkpoints as a policy sees them when the run is made."""
        tails: set[str] = set()
        worst, found = 0.0, []
        for entry in self.checkpoints:
            if entry.stability:
                tails.add(entry.tail)
            surprisal = entry.surprisal or 0.0
            worst = max(worst, surprisal)
            where = entry.checkpoint, entry.think_tokens, entry.tail, entry.stability
            found.append(Signals(*where, len(tails), surprisal, worst))
        return tuple(found)

    def cells(self, axes: Axes) -> list[Cell]:
        """The cell of each checkpoint. Raises `TokenjouleError` where the log lacks what `axes` look at."""
        if "logprob" in axes.needs and any(entry.surprisal is None for entry in self.checkpoints):
            raise TokenjouleError(
                f"{self.end.category} {self.end.question}: the log lacks surprisals, which the rule looks at"
            )
        return [
            axes.cell(at, entry.prompt_tokens, entry.confidence or 0.0)
            for at, entry in zip(self.seen, self.checkpoints, strict=True)
        ]


def lines_of(path: Path) -> list[str]:
    """Of a file, packed with gzip where it ends in .gz. Raises `TokenjouleError` where it cannot be read."""
    try:
        raw = path.read_bytes()
        # Not splitlines(): U+2028 and its like may stand inside a JSON string.
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error  # which does not name the path again
        raise TokenjouleError(f"cannot read {path}: {why}") from error


def refuse_packed(path: Path) -> None:
    """Raises `UsageError` for a file that is packed: nothing can be added to it."""
    if path.suffix == ".gz":
        raise UsageError(f"{path} is packed, and lacks runs that would have to be added: unpack it first")


def mend(path: Path) -> None:
    """Take away what a kill cut short: a last line, and the lines before it of a question without its end.

    Raises `TokenjouleError` where all before it is not JSON: the file may not be ours.
    """
    if not path.exists() or path.suffix == ".gz":
        return
    *whole, rest = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(json.loads(line or b"{}"))
        except ValueError as error:
            raise TokenjouleError(f"{path}:{number}: not a line of JSON: {error}") from error
    if not rest.startswith(b'{"schema":'[: len(rest)]):
        raise TokenjouleError(f"{path}:{len(whole) + 1}: not a line of ours")
    while found and isinstance(found[-1], dict) and found[-1].get("confidence") is not None:
        found.pop()
    if rest or len(found) < len(whole):
        os.truncate(path, sum(len(line) + 1 for line in whole[: len(found)]))


def append(path: Path, entries: Sequence[Entry]) -> None:
    """Add one question's lines in one write, so that a file never holds part of one. Raises
    `TokenjouleError`.
    """
    lines = "".join(
        json.dumps({"schema": SCHEMA, **asdict(entry)}, allow_nan=False) + "\n" for entry in entries
    )
    add(path, lines)


def read(paths: Iterable[Path]) -> list[Trace]:
    """The runs of the files. Raises `TokenjouleError` naming file and line of what is wrong."""
    traces: list[Trace] = []
    for path in paths:
        run: list[Entry] = []
        for number, line in enumerate(lines_of(path), 1):
            if not line.strip():
                continue
            try:
                entry = parse(json.loads(line))
            except (ValueError, TypeError) as error:
                raise TokenjouleError(f"{path}:{number}: not an entry of {SCHEMA}: {error}") from error
            if run and _run_of(run[0]) != _run_of(entry):
                traces.append(_trace(run, path))
                run = []
            run.append(entry)
        if run:
            traces.append(_trace(run, path))
    return traces


def parse(raw: object) -> Entry:
    """An entry from its JSON object. Raises `ValueError` for what is missing, unknown or of a wrong type."""
    if not isinstance(raw, dict):
        raise ValueError("the line is no object")
    given = dict(raw)
    if given.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    known = {field.name: str(field.type) for field in fields(Entry)}
    wrong = set(given) - set(known) | (set(known) - set(given) - {"ledger_j", "surprisal", "states"})
    if wrong:
        raise ValueError(f"missing or unknown: {', '.join(sorted(wrong))}")
    for name, value in given.items():
        if not _is(value, getattr(Entry.__annotations__[name], "__args__", (Entry.__annotations__[name],))):
            raise ValueError(f"{name} must be {known[name]}, found {value!r}")
    return Entry(**given)


def _is(value: object, kinds: Sequence[type]) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return type(value) in [get_origin(kind) or kind for kind in kinds] or (whole and float in kinds)


def _run_of(entry: Entry) -> tuple[str, str, str, int]:
    return entry.model, entry.category, entry.question, entry.seed


def _trace(run: Sequence[Entry], path: Path) -> Trace:
    """Raises `TokenjouleError` unless the checkpoints count up from 0 and cost more and more."""
    where = f"{path}: question {run[0].question} of {run[0].category}"
    if [entry.checkpoint for entry in run] != list(range(len(run))):
        raise TokenjouleError(f"{where}: its checkpoints do not count up from 0")
    if run[-1].confidence is not None:
        raise TokenjouleError(f"{where}: its end is missing: the last line is a forced answer")
    if any(after.energy_j < before.energy_j for before, after in pairwise(run)):
        raise TokenjouleError(f"{where}: its joules fall from one checkpoint to the next")
    return Trace(tuple(run[:-1]), run[-1])
