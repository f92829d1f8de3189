"""Files that grow by whole lines while something long runs: what a kill leaves can be gone on from."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import TokenjouleError


def add(path: Path, lines: str) -> None:
    """Lines that belong together, all of them or none. Raises `TokenjouleError`."""
    data = lines.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            before = file.tell()
            written = os.write(file.fileno(), data)
            if written < len(data):  # a full disk takes a part, and says nothing
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


def mend(path: Path, begins: str, kind: str) -> None:
    """Take away the part of a line that a kill left, if it is of a `kind` that begins so.

    Raises `TokenjouleError` where it is not: the file may not be ours.
    """
    if not path.exists():
        return
    *whole, rest = path.read_bytes().split(b"\n")
    if not rest.startswith(begins.encode()[: len(rest)]):
        raise TokenjouleError(f"{path}, line {len(whole) + 1}: not {kind}")
    if rest:
        os.truncate(path, sum(len(line) + 1 for line in whole))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """With it, no other process that asks for the same writes there; it is made where it is not there.

    Raises `TokenjouleError` where another does, or where it cannot be written.
    """
    try:
        file = open(path, "ab")  # noqa: SIM115
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TokenjouleError(f"{path} is being written by another process") from error
        except OSError:
            pass  # a file system without locks
        yield
