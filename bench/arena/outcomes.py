"""What a policy made of a question when it really ran: one line a question and arm, `tokenjoule.stop/1`."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.calibration.log import lines_of
from engine.errors import TokenjouleError
from engine.line_file import add

SCHEMA = "tokenjoule.stop/1"


@dataclass(frozen=True, slots=True)
class Played:
    """`arm`: as `bench.arena.arms` spells it. `think_tokens`: written before the thinking ended.

    `energy_j`: of every forward that ran, probes included, by the operating curve that `energy_source` names;
    `probe_j` is of which. `ledger_j`: what the meter booked; null where it told nothing. `price`: accuracy
    points per joule that the arm was run with, `rule` the time at which its rule was fitted; null where it
    weighs none. `run`: id of the run's stamp.
    """

    arm: str
    model: str
    quantization: str
    category: str
    question: str
    seed: int
    split: str
    answer: str
    correct: bool
    reason: str
    forced: bool
    think_tokens: int
    new_tokens: int
    energy_j: float
    probe_j: float
    ledger_j: float | None
    elapsed_s: float
    price: float | None
    rule: str | None
    energy_source: str
    run: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.arm, self.category, self.seed


def append(path: Path, played: Played) -> None:
    """One line, in one write. Raises `TokenjouleError`."""
    line = json.dumps({"schema": SCHEMA, **asdict(played)}, allow_nan=False) + "\n"
    add(path, line)


def read(paths: Iterable[Path]) -> list[Played]:
    """Lines of other schemas are left out.

    Raises `TokenjouleError` naming file and line of a bad one, and of a run that stands there twice.
    """
    found: dict[tuple[str, str, int], Played] = {}
    names = {field.name for field in fields(Played)}
    for path in paths:
        for number, line in enumerate(filter(str.strip, lines_of(path)), 1):
            try:
                given = json.loads(line)
                if given.pop("schema") != SCHEMA:
                    continue
                if set(given) != names:
                    raise ValueError(f"wrong fields: {', '.join(sorted(set(given) ^ names))}")
                played = Played(**given)
                if played.key in found:
                    raise ValueError(f"{played.arm} on {played.question!r} stands in these files twice")
                found[played.key] = played
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise TokenjouleError(f"{path}:{number}: not an outcome of {SCHEMA}: {error}") from error
    return list(found.values())
