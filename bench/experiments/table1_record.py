"""What Table 1 writes: an arm (one model, one technique, how it was run), then a line for each question.

JSONL, schema `tokenjoule.table1/1`. An arm with the same settings goes on where it was cut off.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.benchmarks.files import json_lines
from bench.record import Stamp
from engine.errors import TokenjouleError

SCHEMA = "tokenjoule.table1/1"


@dataclass(frozen=True, slots=True)
class Arm:
    """`technique`: "large" is `direct` on the large model. `settings`: all that changes its figures."""

    id: str
    technique: str
    model: str
    shape_only: bool
    device: str
    energy_source: str
    measured: bool
    settings: Mapping[str, Any]
    stamp: Mapping[str, Any]

    @property
    def sameness(self) -> str:
        """Equal for arms whose questions may stand in one table column."""
        return json.dumps(
            [self.technique, self.model, self.device, self.energy_source, self.settings], sort_keys=True
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question. `correct`: None where `censored`, or where `error` says why it was not asked.

    `energy_j` None: the meter told nothing. `votes`: answer to number.
    """

    arm: str
    id: str
    category: str
    cluster: str
    reference: str
    answer: str | None
    correct: bool | None
    unparsed: bool
    censored: bool
    forced: bool
    stop: str
    prompt_tokens: int
    new_tokens: int
    energy_j: float | None
    elapsed_s: float
    votes: Mapping[str, int] | None
    error: str | None


def new_arm(
    technique: str,
    model: str,
    *,
    shape_only: bool,
    device: str,
    energy_source: str,
    measured: bool,
    settings: Mapping[str, Any],
    stamp: Stamp,
) -> Arm:
    """With an id of its own."""
    return Arm(
        secrets.token_hex(4),
        technique,
        model,
        shape_only,
        device,
        energy_source,
        measured,
        json.loads(json.dumps(settings)),
        json.loads(json.dumps(asdict(stamp))),
    )


def append(path: Path, lines: Iterable[Arm | Outcome]) -> None:
    """One line and one write each. Raises `TokenjouleError`."""
    rows = [{"schema": SCHEMA, "kind": type(one).__name__.lower(), **asdict(one)} for one in lines]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            for row in rows:
                file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


def resume(path: Path) -> tuple[list[Arm], list[Outcome]]:
    """What a file to be continued holds; a last line that a kill cut short is removed. Raises as `read`."""
    if not path.exists():
        return [], []
    found = read([path])  # before anything is removed: the file is ours
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
    return found


def read(paths: Sequence[Path]) -> tuple[list[Arm], list[Outcome]]:
    """Arms and outcomes of the files. Raises `TokenjouleError` that names file and line of a bad one.

    A last line that a kill cut short is passed over: its question is asked again.
    """
    arms: dict[str, Arm] = {}
    outcomes: list[Outcome] = []
    for path in paths:
        for where, line in json_lines(path, cut_end=True):
            given = dict(line)
            if given.pop("schema", None) != SCHEMA:
                raise TokenjouleError(f"{where}: its schema is not {SCHEMA}")
            kind: Any = {"arm": Arm, "outcome": Outcome}.get(str(given.pop("kind", None)))
            try:
                made = kind(**given)
            except TypeError as error:
                raise TokenjouleError(f"{where}: not a line of {SCHEMA}: {error}") from error
            if isinstance(made, Arm):
                arms[made.id] = made
            elif made.arm not in arms:
                raise TokenjouleError(f"{where}: its arm {made.arm!r} is not in the file")
            else:
                outcomes.append(made)
    return list(arms.values()), outcomes
