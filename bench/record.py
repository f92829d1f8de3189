"""The one JSONL schema of all benchmarks: what was run, where, every sample, and what follows from them.

One `Record` is one arm in one case, one line of a file. Nothing here measures or knows an engine. What is
missing is null and says why; it is never 0. `python -m bench.report` and everything else that shows figures
reads these lines and nothing else.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from statistics import median, quantiles
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from engine.errors import TokenjouleError

SCHEMA = "tokenjoule.bench/1"
UNITS = ("s", "B", "B/s", "FLOP/s", "tok/s", "J", "J/tok", "W", "Hz", "nat", "1", "%")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where and of what a run was made; the same for all its records. `bench.stamp.stamp` reads it.

    `run`: the same random id in every record of one run. `utc`: ISO 8601. `dirty`: whether the work tree
    differed from `commit`. `clock_mhz`: of each core or of the GPU's SM, when the run began. `versions`: by
    package, null where it is not installed. `reasons`: for each field or package that is null, why.
    """

    run: str
    utc: str
    command: tuple[str, ...]
    commit: str | None
    dirty: bool | None
    device: str
    cores: int
    clock_mhz: tuple[float, ...] | None
    versions: Mapping[str, str | None]
    environment: Mapping[str, str]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Arm:
    """Who ran. `engine`: tokenjoule or a peer's name. `quantization`: none, int8, Q4_0, …, as the engine
    calls it. `threads`: null where the arm has no say in it. `note`: what a reader must know to judge it.
    """

    name: str
    engine: str
    backend: str
    quantization: str
    dtype: str
    threads: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What was run. `shape_only`: random weights. `phase`: decode, prefill, a stage's name or "read".

    `rows` × `new_tokens` tokens are computed, each row with `context` positions before them. `shape`: of
    the matrix or buffer, for single operations.
    """

    model: str
    shape_only: bool
    phase: str
    rows: int
    context: int
    new_tokens: int = 1
    shape: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.new_tokens


@dataclass(frozen=True, slots=True)
class Metric:
    """Samples as they were taken, in the order of the rounds. Empty samples need a `reason`."""

    unit: str
    samples: tuple[float, ...]
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; known: {', '.join(UNITS)}")
        if not all(math.isfinite(sample) for sample in self.samples):
            raise ValueError("a sample is not finite")
        if bool(self.samples) == bool(self.reason):
            raise ValueError("a metric has samples or a reason why not, and not both")

    @property
    def median(self) -> float | None:
        return median(self.samples) if self.samples else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Lower and upper; None below two samples."""
        if len(self.samples) < 2:
            return None
        lower, _, upper = quantiles(self.samples, n=4, method="inclusive")
        return lower, upper

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles or (None, None)
        least = min(self.samples) if self.samples else None
        spread = {"median": self.median, "q1": low, "q3": high, "min": least, "n": len(self.samples)}
        return {"unit": self.unit, **spread, "samples": list(self.samples), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Value:
    """What follows from samples: one number, `low` and `high` of its interval where there is an honest one.

    `source`: where it comes from (an energy source, a roofline's reference). `measured`: for joules,
    whether a sensor measured them; null for what is not energy. `value` null needs a `reason`.
    """

    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    source: str = ""
    measured: bool | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; known: {', '.join(UNITS)}")
        if (self.value is None) != bool(self.reason):
            raise ValueError("a value is a number, or null with a reason")
        if not all(math.isfinite(v) for v in (self.value, self.low, self.high) if v is not None):
            raise ValueError("a value is not finite")
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")


@dataclass(frozen=True, slots=True)
class Record:
    """One arm in one case. `group`: records of one group were interleaved round by round, so that sample i
    of one stands beside sample i of another.
    """

    benchmark: str
    stamp: Stamp
    arm: Arm
    case: Case
    group: str
    metrics: Mapping[str, Metric]
    derived: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            "stamp": asdict(self.stamp),
            "arm": asdict(self.arm),
            "case": asdict(self.case),
            "group": self.group,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "derived": {name: asdict(value) for name, value in self.derived.items()},
        }


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to a file, one line and one write each, so that several writers do not mix lines.

    A line that an earlier writer left unfinished is ended first: it stays one bad line. Raises
    `TokenjouleError` where the file cannot be written.
    """
    lines = [json.dumps(record.to_json(), allow_nan=False).encode() + b"\n" for record in records]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            if _unfinished(path):
                os.write(file.fileno(), b"\n")
            for line in lines:
                os.write(file.fileno(), line)
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


def _unfinished(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read(paths: Iterable[Path]) -> Iterator[Record]:
    """The records of the files, in order. Raises `TokenjouleError` that names file and line of a bad one."""
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error  # which does not name the path again
            raise TokenjouleError(f"cannot read {path}: {why}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield parse(json.loads(line, parse_constant=_refuse_constant))
            except (ValueError, TypeError, RecursionError) as error:
                raise TokenjouleError(f"{path}:{number}: not a record of {SCHEMA}: {error}") from error


def parse(raw: object) -> Record:
    """A record from its JSON object. Raises `ValueError` for anything missing, unknown or contradictory."""
    given = dict(_object(raw, "the line"))
    if given.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    record: Record = _made(Record, given, "record")
    stamp = record.stamp
    nulls = {name for name in ("commit", "dirty", "clock_mhz") if getattr(stamp, name) is None}
    nulls |= {name for name, version in stamp.versions.items() if version is None}
    if nulls != set(stamp.reasons):
        raise ValueError(f"stamp: nulls and reasons differ: {', '.join(sorted(nulls ^ set(stamp.reasons)))}")
    return record


def _made(kind: Any, raw: object, name: str) -> Any:
    """The value of the annotated type `kind` in its JSON form `raw`; `name` is for errors."""
    if kind is Metric:
        return _metric(raw, name)
    if is_dataclass(kind):
        given, kinds = _object(raw, name), get_type_hints(kind)
        if set(given) != set(kinds):
            raise ValueError(f"{name}: wrong fields: {', '.join(sorted(set(given) ^ set(kinds)))}")
        build: Any = kind
        return build(**{key: _made(kinds[key], value, f"{name}.{key}") for key, value in given.items()})
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if raw is None and NoneType in parts:
            return None
        return _made(parts[0], raw, name)
    if origin is tuple and isinstance(raw, list):
        return tuple(_made(parts[0], item, f"{name}[{index}]") for index, item in enumerate(raw))
    if origin is Mapping:
        return {key: _made(parts[1], value, f"{name}.{key}") for key, value in _object(raw, name).items()}
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if kind is float and number:
        return float(raw)  # type: ignore[arg-type]
    if kind in (str, bool, int) and type(raw) is kind:
        return raw
    raise ValueError(f"{name} must be {kind}, found {raw!r}")


def _metric(raw: object, name: str) -> Metric:
    """A metric whose median, quartiles, minimum and number are those of its samples."""
    given = _object(raw, name)
    if not isinstance(given.get("samples"), list):
        raise ValueError(f"{name} has no samples")
    samples = _made(tuple[float, ...], given["samples"], f"{name}.samples")
    metric = Metric(given.get("unit", ""), samples, given.get("reason"))
    for key, value in metric.to_json().items():
        if key not in given or not _same(given[key], value):
            raise ValueError(f"{name}.{key} is {given.get(key)!r}, of its samples it is {value!r}")
    return metric


def _same(given: object, found: object) -> bool:
    """Equal; two floats to the rounding of another Python's sums."""
    if isinstance(given, float) and isinstance(found, float):
        return math.isclose(given, found)
    return given == found


def _object(raw: object, name: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{name} is not an object")
    return raw


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
