from pathlib import Path

import pytest

from bench.markers import NAMES, fill
from bench.report import SECTIONS
from engine.errors import UsageError

TEXT = (
    "a\n<!-- bench:stop -->\nold\n<!-- end bench:stop -->\n<!-- bench:gpu -->\nkept\n<!-- end bench:gpu -->\n"
)


def test_parts_of_other_commands_stay(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    fill(path, {"stop": lambda: "new\n\n"})
    assert path.read_text() == TEXT.replace("old", "new")


def test_a_file_without_the_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    with pytest.raises(UsageError, match="no marker; <!-- bench:decode -->"):
        fill(path, {"decode": lambda: "new"})
    assert path.read_text() == TEXT


def test_every_part_of_a_report_has_a_name_here() -> None:
    assert set(SECTIONS) <= set(NAMES)
