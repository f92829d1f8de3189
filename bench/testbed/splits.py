"""Frozen splits: numbered questions for development, calibration and test; a record of who opened the test.

frozen.json holds the mix, the generators' constants, the splits and, later, thresholds that were chosen on
the calibration split, with a hash of the first three. A split opens only while the code still says the same.
"""

import hashlib
import json
from collections.abc import Mapping
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


def freeze(path: Path = FROZEN, *, thresholds: Mapping[str, float] | None = None) -> str:
    """Writes frozen.json for the code as it is; returns the hash."""
    found = definition()
    digest = _digest(found)
    document = {**found, "thresholds": dict(thresholds or {}), "sha256": digest}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return digest


def open_split(
    name: str,
    *,
    per_category: int,
    categories: tuple[str, ...] = CATEGORIES,
    reason: str | None = None,
    frozen: Path = FROZEN,
    openings: Path = OPENINGS,
) -> list[Question]:
    """The first `per_category` questions of each category of a split, the categories in turn.

    The test split needs a `reason`, and a line in `openings` says when, at which commit and why it was
    opened. Raises `UsageError` for an unknown split, a number out of range or a missing reason,
    `TokenjouleError` where frozen.json is not of this code.
    """
    if name not in SPLITS:
        raise UsageError(f"unknown split {name!r}; there are {', '.join(SPLITS)}")
    split = SPLITS[name]
    if not 1 <= per_category <= split.questions:
        raise UsageError(f"a split has 1..{split.questions} questions a category, not {per_category}")
    if name == SEALED and not reason:
        raise UsageError("the test split opens for a reason only, which is put on record")
    digest = _check(frozen)
    if name == SEALED:
        _put_on_record(openings, digest, str(reason))
    return [
        numbered(category, split.first + index, folds=split.folds)
        for index in range(per_category)
        for category in categories
    ]


def _check(frozen: Path) -> str:
    try:
        kept = json.loads(frozen.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise TokenjouleError(f"{frozen} does not tell what the splits are: {error!r}") from error
    digest = _digest(definition())
    if digest != kept:
        raise TokenjouleError(f"{frozen} was frozen for other constants than those of this code: {kept[:12]}")
    return digest


def _put_on_record(openings: Path, digest: str, reason: str) -> None:
    where = stamp("bench.testbed.splits", (), torch.device("cpu"))
    line = {
        "utc": where.utc,
        "commit": where.commit,
        "dirty": where.dirty,
        "split": SEALED,
        "sha256": digest,
        "reason": reason,
    }
    with openings.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
