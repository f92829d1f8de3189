"""MMLU (Hendrycks et al., arXiv 2009.03300): 57 subjects, four choices each, in the authors' own layout.

`SPLIT/SUBJECT_SPLIT.csv` without header, columns question, A, B, C, D, answer; below a directory, or in the
authors' data.tar or a .zip of it, at any depth.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from bench.benchmarks.files import members
from bench.benchmarks.item import Item
from engine.errors import TokenjouleError

NAME = "mmlu"
SPLITS = ("test", "val", "dev")
SUBJECTS = 57
COLUMNS = 6


def read_mmlu(path: Path, split: str) -> list[Item]:
    """Every question of the split; `category` is the subject. Raises `TokenjouleError`."""
    layout = re.compile(rf"(?:^|/){split}/([a-z_]+)_{split}\.csv$")
    found = [
        item
        for where, match, text in members(path, layout)
        for item in _subject(where, match[1], text, split)
    ]
    if not found:
        raise TokenjouleError(f"{path} holds no {split}/SUBJECT_{split}.csv of MMLU")
    return found


def _subject(where: str, subject: str, text: str, split: str) -> Iterator[Item]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)  # U+0085 is no end of a line
    index = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise TokenjouleError(f"{where}, line {rows.line_num}: not CSV: {error}") from error
        if row is None:
            return
        if len(row) != COLUMNS:
            raise TokenjouleError(f"{where}, line {rows.line_num}: {len(row)} columns, MMLU has {COLUMNS}")
        question, *choices, answer = row
        if answer not in ("A", "B", "C", "D"):
            raise TokenjouleError(
                f"{where}, line {rows.line_num}: the answer is {answer!r}, not A, B, C or D"
            )
        yield Item(f"{subject}/{split}/{index}", question, tuple(choices), answer, subject, NAME)
        index += 1
