"""What stands beside a file of outcomes: what reading each question told and took, and the meter's joules.

One JSON object a line and question, schema `tokenjoule.bench.reading/1`, in OUTCOMES.readings.jsonl beside
OUTCOMES.jsonl. Outcomes repeat a question's features on the line of every arm; 528 numbers, seven times for
4,000 questions, are 130 MB, so that they stand here once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.calibration.log import lines_of, write
from engine.errors import TokenjouleError
from engine.strict import an_object, made

SCHEMA = "tokenjoule.bench.reading/1"


@dataclass(frozen=True, slots=True)
class Reading:
    """`reader`: the model that read the question, as arms are called by it. `features`: what that told.

    `energy_j`: of reading, by the operating curve; `saved_j`: of which an arm of the reader is spared, as it
    goes on from what was read. `ledger_j`: what the meter booked, of each arm by name and of the reading as
    "reading"; null where it told nothing.
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


def beside(outcomes: Path) -> Path:
    """Where the readings of a file of outcomes are."""
    return outcomes.with_suffix(".readings.jsonl")


def append(path: Path, reading: Reading) -> None:
    """One line, in one write. Raises `TokenjouleError`."""
    write(path, json.dumps({"schema": SCHEMA, **asdict(reading)}, allow_nan=False) + "\n")


def read_readings(paths: Sequence[Path]) -> dict[str, Reading]:
    """By question, the last of several. Raises `TokenjouleError` naming file and line of a bad one."""
    found: dict[str, Reading] = {}
    for path in paths:
        for number, line in enumerate(lines_of(path), 1):
            if line.strip():
                try:
                    one = _reading(json.loads(line))
                except ValueError as error:
                    raise TokenjouleError(f"{path}:{number}: not a line of {SCHEMA}: {error}") from error
                found[one.question] = one
    return found


def _reading(raw: Any) -> Reading:
    given = dict(an_object(raw, "the line"))
    if given.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    found: Reading = made(Reading, given)
    return found
