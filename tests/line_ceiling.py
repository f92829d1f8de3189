"""The ceiling on lines per Python file: `python tests/line_ceiling.py [ROOT]`, shared with test_habits.

Also owns which files of a tree are the project's, for every check that reads them.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CEILING = 400
GENERATED = {"__pycache__", "build", "dist", "venv"}
ROOT = Path(__file__).resolve().parents[1]


def project_files(root: Path, suffix: str = "") -> Iterator[Path]:
    """Files below `root` that end in `suffix`: tracked or new to git, or all where no git is.

    A file that is new and not yet added counts, so that a check speaks before the commit does.
    """
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
        paths = {root / name for name in listed.split("\0") if name}
    else:
        paths = set(_walk(root))
    for path in sorted(paths):
        if path.name.endswith(suffix) and path.is_file():
            yield path


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root` outside caches, builds and environments: a dot folder is ours if it is .ci."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in GENERATED and (name[0] != "." or name == ".ci")]
        yield from (Path(folder, name) for name in names)


def line_ceiling(root: Path, ceiling: int = CEILING) -> list[str]:
    """One line for each Python file below `root` that is longer than `ceiling` lines."""
    found = []
    for path in project_files(root, ".py"):
        lines = len(path.read_bytes().splitlines())
        if lines > ceiling:
            found.append(f"{path.relative_to(root)}: {lines} lines, the ceiling is {ceiling}")
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fail where a Python file is longer than the ceiling.")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT)
    found = line_ceiling(parser.parse_args(argv).root.resolve())
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
