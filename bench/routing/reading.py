"""What stands beside a file of outcomes: what reading each question told and took, and the meter's joules.

One JSON object a line and question, schema `tokenjoule.bench.reading/1`, in OUTCOMES.readings.jsonl beside
OUTCOMES.jsonl. Outcomes repeat a question's features on the line of every arm; 528 numbers, seven times for
4,000 questions, are 130 MB, so that they stand here once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.calibration.log import lines_of
from engine.energy.curve import OperatingCurve
from engine.energy.curve_json import to_json
from engine.errors import TokenjouleError
from engine.line_file import add
from engine.strict import an_object, made

SCHEMA = "tokenjoule.bench.reading/1"


@dataclass(frozen=True, slots=True)
class Reading:
    """`reader`: the model that read the question, as arms are called by it. `features`: what that told.

    `energy_j`: of reading, by the operating curve; `saved_j`: of which an arm of the reader is spared, as it
    goes on from what was read. `ledger_j`: what the meter booked, of each arm by name and of the reading as
    "reading"; null where it told nothing. `curves`: by model, the digest of the curve (`curve_digest`) that
    its joules are by; older lines do not tell it.

    Charged is a plain prefill. Reading for features also runs the head over every position of the prompt,
    which no term of an operating curve tells apart: what that takes is not in `energy_j`, but in `ledger_j`.
    """

    question: str
    split: str
    reader: str
    features: tuple[float, ...]
    prompt_tokens: int
    energy_j: float
    saved_j: float
    energy_source: str
    elapsed_s: float
    ledger_j: Mapping[str, float | None]
    curves: Mapping[str, str] = field(default_factory=dict)


def beside(outcomes: Path) -> Path:
    """Where the readings of a file of outcomes are."""
    return outcomes.with_suffix(".readings.jsonl")


def append(path: Path, reading: Reading) -> None:
    """One line, in one write. Raises `TokenjouleError`."""
    add(path, json.dumps({"schema": SCHEMA, **asdict(reading)}, allow_nan=False) + "\n")


def read_readings(paths: Sequence[Path]) -> dict[str, Reading]:
    """By question, the last of several. Raises `TokenjouleError` naming file and line of a bad one, and where
    joules of one model are by two curves.
    """
    found: list[Reading] = []
    for path in paths:
        for number, line in enumerate(lines_of(path), 1):
            if line.strip():
                try:
                    one = _reading(json.loads(line))
                except ValueError as error:
                    raise TokenjouleError(f"{path}:{number}: not a line of {SCHEMA}: {error}") from error
                found.append(one)
    one_curve(found)
    return {one.question: one for one in found}


def one_curve(readings: Iterable[Reading]) -> dict[str, str]:
    """By model, the digest of the curve that all its joules are by, where any reading tells it. Raises
    `TokenjouleError` for two of one model: their joules do not compare.
    """
    found: dict[str, str] = {}
    for one in readings:
        for model, digest in one.curves.items():
            if (other := found.setdefault(model, digest)) != digest:
                told = f"question {one.question!r} by {digest}, others by {other}"
                raise TokenjouleError(f"joules of {model} are by two curves: {told}")
    return found


def curve_digest(curve: OperatingCurve) -> str:
    """12 hex digits of the SHA-256 of a curve as its file has it, but for what is fitted to it later: a
    stopping rule and what is known of accuracy leave its joules as they are.
    """
    bare = to_json(replace(curve, stopping=None, accuracy=None))
    content = json.dumps(bare, sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def _reading(raw: Any) -> Reading:
    given = dict(an_object(raw, "the line"))
    if given.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    found: Reading = made(Reading, given)
    return found
