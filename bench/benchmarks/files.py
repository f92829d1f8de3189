"""Reading benchmark files: every complaint names the file and, where there is one, the line."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import TokenjouleError
from engine.strict import read_text

Line = tuple[str, Mapping[str, Any]]  # where it stands, for errors; its object


def json_lines(path: Path, *, cut_end: bool = False) -> Iterator[Line]:
    """The objects of a JSONL file. Raises `TokenjouleError` for a line that is none.

    `cut_end`: a last line without its line break is passed over, as a killed writer leaves one.
    """
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines[:-1] if cut_end else lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TokenjouleError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise TokenjouleError(f"{where}: not an object")
        yield where, value


def parquet_lines(path: Path) -> Iterator[Line]:
    """The rows of a parquet file, as the Hub keeps some benchmarks. Raises `TokenjouleError`."""
    try:
        from pyarrow import parquet  # large, and needed for nothing else
    except ImportError as error:
        raise TokenjouleError(f"{path} is parquet; to read it: pip install -e '.[parquet]'") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow's own hierarchy, and OSError
        raise TokenjouleError(f"cannot read {path}: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def text_of(where: str, line: Mapping[str, Any], key: str) -> str:
    """A text that must be there and not be empty. Raises `TokenjouleError`."""
    value = line.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TokenjouleError(f"{where}: needs a text {key!r}, found {value!r}")
    return value


def members(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str], str]]:
    """(where, match, text) of the files below a directory, or in a .zip or .tar, whose path matches.

    In the order of their paths, which use slashes and are relative. Raises `TokenjouleError`.
    """
    found: list[tuple[str, re.Match[str], bytes]] = []
    try:
        for name, data in _files(path, pattern):
            match = pattern.search(name)
            assert match is not None
            found.append((name, match, data))
    except tarfile.ReadError as error:  # which names every packing that it tried, a line each
        raise TokenjouleError(f"cannot read {path}: it is no directory, no zip and no tar") from error
    except (OSError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, EOFError) as error:
        raise TokenjouleError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for name, match, data in sorted(found, key=lambda one: one[0]):
        where = f"{path}: {name}"
        try:
            yield where, match, data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TokenjouleError(f"{where} is not valid UTF-8: byte {error.start} is wrong") from error


def _files(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if pattern.search(name) and file.is_file():
                yield name, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if pattern.search(name):
                    yield name, archive.read(name)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member) if pattern.search(member.name) else None
                if stream is not None:
                    with io.BufferedReader(stream) as reader:  # type: ignore[type-var]
                        yield member.name, reader.read()
