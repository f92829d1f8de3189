"""Frozen splits: numbered questions for development, calibration and test; a record of who opened the test.

    python -m bench.testbed.splits --fitted S=CURVE.json      freeze, with what was fitted to calibration runs

frozen.json holds the mix, the generators' constants, the splits, and of each file that was fitted to the
calibration split (thresholds, prices, joules of a token) its SHA-256, with a hash of all that. A split opens
only while the code still says the same, the test split only to files that are frozen.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.stamp import stamp
from bench.testbed import chain, folds, recall, search, verify
from bench.testbed.question import CATEGORIES, Question
from bench.testbed.sample import MIX, numbered
from engine.errors import TokenjouleError, UsageError

FROZEN = Path(__file__).parent / "frozen.json"
OPENINGS = Path(__file__).parent / "openings.jsonl"
SEALED = "test"


@dataclass(frozen=True, slots=True)
class Split:
    """Seeds `first`, `first` + 1, … of every category, over questions of some folds."""

    first: int
    questions: int
    folds: range


SPLITS = {
    "development": Split(1_000_000, 1_000_000, folds.DEVELOPMENT),
    "calibration": Split(2_000_000, 1_000_000, folds.CALIBRATION),
    SEALED: Split(3_000_000, 1_000_000, folds.TEST),
}


def definition() -> dict[str, Any]:
    """What decides every question of every split, as the code has it now."""
    return {
        "mix": MIX,
        "constants": {
            "chain": {"operations": chain.OPERATIONS[-1], "max_value": chain.MAX_VALUE},
            "verify": asdict(verify.RATES) | {"digits": verify.DIGITS},
            "search": {
                "digits": list(search.DIGIT_COUNTS),
                "most_tries": search.MOST_TRIES,
                "unsolvable_share": search.UNSOLVABLE_SHARE,
            },
            "recall": {
                "facts": recall.FACTS,
                "rank_offset": recall.RANK_OFFSET,
                "lines": recall.LINES,
                "table": _digest(recall.facts()),
            },
        },
        "splits": {
            name: {
                "first": split.first,
                "questions": split.questions,
                "folds": [split.folds.start, split.folds.stop],
            }
            for name, split in SPLITS.items()
        },
        # A change of the generators' code that no constant tells of: questions of each category as they are.
        "samples": {category: numbered(category, 0).prompt for category in CATEGORIES},
    }


def freeze(path: Path = FROZEN, *, fitted: Mapping[str, Path] | None = None) -> str:
    """Writes frozen.json for the code and the `fitted` files as they are; returns the hash."""
    digests = {name: file_digest(file) for name, file in (fitted or {}).items()}
    found = {**definition(), "fitted": digests}
    digest = _digest(found)
    path.write_text(json.dumps({**found, "sha256": digest}, indent=2) + "\n", encoding="utf-8")
    return digest


def file_digest(path: Path) -> str:
    """SHA-256. Raises `TokenjouleError` for a file that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error


def open_split(
    name: str,
    *,
    per_category: int,
    after: int = 0,
    categories: tuple[str, ...] = CATEGORIES,
    reason: str | None = None,
    fitted: Sequence[Path] = (),
    frozen: Path = FROZEN,
    openings: Path = OPENINGS,
) -> list[Question]:
    """So many questions of each category of a split behind the first `after`, the categories in turn.

    The test split needs a `reason`, and a line in `openings` says when, at which commit, why, to which
    `fitted` files and which of its questions it was opened. Raises `UsageError` for an unknown split, a
    number out of range, a missing reason or a file that was not frozen, `TokenjouleError` where frozen.json
    is not of this code.
    """
    if name not in SPLITS:
        raise UsageError(f"unknown split {name!r}; there are {', '.join(SPLITS)}")
    split = SPLITS[name]
    if not (per_category >= 1 and after >= 0 and after + per_category <= split.questions):
        asked = f"{per_category} behind {after}" if after else str(per_category)
        raise UsageError(f"a split has 1..{split.questions} questions a category, not {asked}")
    numbers = range(after, after + per_category)
    if name == SEALED and not reason:
        raise UsageError("the test split opens for a reason only, which is put on record")
    kept = _check(frozen)
    if name == SEALED:
        for path in fitted:
            if file_digest(path) not in kept["fitted"].values():
                raise UsageError(f"{path} was not frozen, so the test split stays closed to it")
        _put_on_record(openings, kept["sha256"], str(reason), fitted, numbers)
    return [
        numbered(category, split.first + index, folds=split.folds)
        for index in numbers
        for category in categories
    ]


def _check(frozen: Path) -> dict[str, Any]:
    """What is frozen, once it has proved to be of this code."""
    try:
        kept: dict[str, Any] = json.loads(frozen.read_text(encoding="utf-8"))
        said, fitted = kept["sha256"], kept["fitted"]
    except (OSError, ValueError, KeyError) as error:
        raise TokenjouleError(f"{frozen} does not tell what the splits are: {error!r}") from error
    if _digest({**definition(), "fitted": fitted}) != said:
        raise TokenjouleError(f"{frozen} was frozen for other constants than those of this code: {said[:12]}")
    return kept


def _put_on_record(openings: Path, digest: str, reason: str, fitted: Sequence[Path], numbers: range) -> None:
    where = stamp("bench.testbed.splits", (), torch.device("cpu"))
    line = {
        "utc": where.utc,
        "commit": where.commit,
        "dirty": where.dirty,
        "split": SEALED,
        "sha256": digest,
        "reason": reason,
        "fitted": [file_digest(path) for path in fitted],
        "questions": [numbers.start, numbers.stop],  # of each category; older lines do not tell it
    }
    with openings.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Freezes. Returns 0, 1 for a file that cannot be read; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="bench.testbed.splits", description=__doc__.splitlines()[0])
    parser.add_argument("--fitted", action="append", default=[], metavar="NAME=FILE", help="may be repeated")
    named = [text.partition("=") for text in parser.parse_args(argv).fitted]
    if not all(name and file for name, _, file in named):
        parser.error("--fitted needs NAME=FILE")
    try:
        print(freeze(fitted={name: Path(file) for name, _, file in named}))
    except TokenjouleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
