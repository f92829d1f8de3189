"""What a command line's files are checked for before any work: none serves twice, all can be written."""

import os
from collections.abc import Mapping

from engine.errors import TokenjouleError, UsageError


def refuse_same(files: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """`files` by the option that names them; None: not given. Raises `UsageError` where two are one file.

    One would overwrite the other. Numbered options, "--stop (1)" and "--stop (2)", may share theirs.
    """
    seen: dict[object, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        if not os.fspath(path):
            raise UsageError(f"{name} needs the name of a file")
        real: object = os.path.realpath(path)
        try:
            state = os.stat(os.path.realpath(path))
            real = (state.st_dev, state.st_ino)  # hard links, too
        except OSError:
            pass  # it is not there yet
        if real in seen and seen[real].partition(" (")[0] != name.partition(" (")[0]:
            raise UsageError(f"{seen[real]} and {name} are the same file, {path}")
        seen[real] = name


def writable(*paths: str | os.PathLike[str] | None) -> None:
    """Raises `TokenjouleError` unless each can be written; what it holds stays. None: not given."""
    for path in paths:
        if path is None:
            continue
        existed = os.path.exists(path)
        try:
            with open(path, "a", encoding="utf-8"):
                pass
        except OSError as error:
            raise TokenjouleError(f"cannot write {os.fspath(path)}: {error.strerror}") from error
        if not existed:
            os.remove(path)
