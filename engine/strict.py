"""Frozen dataclasses from parsed files: what is missing, unknown or of the wrong type is refused.

JSON lines and TOML are read here; `arrays` reads archives.
"""

import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from engine.errors import TokenjouleError

Made = TypeVar("Made")


def made(kind: Any, raw: object, name: str = "", known: Mapping[str, Any] | None = None) -> Any:
    """The value of the annotated type `kind` in its parsed form `raw`. Raises `ValueError`.

    A field with a default may be left out. Of several dataclasses it is the one that has most of the fields
    given. `name` is for errors; `known`: names in annotations that its module has for type checking alone.
    """
    if is_dataclass(kind):
        given = an_object(raw, name or "the file")
        kinds = get_type_hints(kind, localns=dict(known or {}))
        needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
        known_here = [field.name for field in fields(kind)]
        unknown = given.keys() - set(known_here)
        if wrong := (needed - given.keys()) | unknown:
            listed = ", ".join(f"{name}.{key}".lstrip(".") for key in sorted(wrong))
            said = f"; there are {', '.join(known_here)}" if unknown else ""
            raise ValueError(f"missing or unknown: {listed}{said}")
        parts = {
            key: made(kinds[key], value, f"{name}.{key}".lstrip("."), known) for key, value in given.items()
        }
        build: Any = kind
        try:
            return build(**parts)
        except ValueError as error:
            raise ValueError(f"{name}: {error}" if name else str(error)) from error
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        return None if raw is None and NoneType in inner else made(_closest(inner, raw), raw, name, known)
    if origin is tuple:
        return _tuple(inner, raw, name, known)
    if origin is Mapping:
        return {
            key: made(inner[1], value, f"{name}.{key}", known) for key, value in an_object(raw, name).items()
        }
    if kind is Any or (origin is np.ndarray and isinstance(raw, np.ndarray)):
        return raw
    if kind is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    if kind in (str, bool, int) and type(raw) is kind:
        return raw
    raise ValueError(f"{name} must be a {kind.__name__}, found {raw!r}")


def an_object(raw: object, name: str) -> Mapping[str, Any]:
    """Raises `ValueError` for anything else."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{name} is no object")
    return raw


def _closest(kinds: tuple[Any, ...], raw: object) -> Any:
    given = raw.keys() if isinstance(raw, Mapping) else set()

    def shared(kind: Any) -> int:
        return len({field.name for field in fields(kind)} & given) if is_dataclass(kind) else 0

    return max((kind for kind in kinds if kind is not NoneType), key=shared)


def _tuple(
    inner: tuple[Any, ...], raw: object, name: str, known: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        raise ValueError(f"{name} is no list")
    kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(raw):
        raise ValueError(f"{name} has {len(raw)} values, not {len(kinds)}")
    pairs = enumerate(zip(kinds, raw, strict=True))
    return tuple(made(kind, item, f"{name}[{i}]", known) for i, (kind, item) in pairs)


def read_text(path: Path) -> str:
    """UTF-8 text of a file. Raises `TokenjouleError`."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenjouleError(f"{path} is not valid UTF-8: byte {error.start} is wrong") from error


def read_lines(path: Path, make: Callable[[Any], Made]) -> list[Made]:
    """What `make` makes of each line's JSON. Raises `TokenjouleError` naming file and line."""
    found = []
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TokenjouleError(f"{where}: not valid JSON: {error}") from error
            try:
                found.append(make(value))
            except ValueError as error:
                raise TokenjouleError(f"{where}: {error}") from error
    if not found:
        raise TokenjouleError(f"{path} is empty")
    return found


def read_toml(path: Path, make: Callable[[Any], Made], *, files: Collection[str] = ()) -> Made:
    """What `make` makes of the file. `files`: fields that name files, which are looked for beside it.

    Raises `TokenjouleError` naming file, line and field.
    """
    text = read_text(path)
    try:
        content = tomllib.loads(text)
    except ValueError as error:  # tells its line
        raise TokenjouleError(f"{path}: {error}") from error
    try:
        return make(_beside(content, path.parent, files))
    except ValueError as error:
        raise TokenjouleError(f"{path}, line {_line(text, str(error))}: {error}") from error


def _beside(raw: Any, folder: Path, files: Collection[str]) -> Any:
    """`raw` with all paths in its fields `files`, however deep, told from where this runs."""
    if isinstance(raw, list):
        return [_beside(one, folder, files) for one in raw]
    if not isinstance(raw, Mapping):
        return raw
    return {
        name: str(folder / value)
        if name in files and isinstance(value, str)
        else _beside(value, folder, files)
        for name, value in raw.items()
    }


def _line(text: str, problem: str) -> int:
    """Where the first field that `problem` names stands in the table that it names, else where that begins.

    Tables are named as `made` does: `arms[1]`, `models.small`.
    """
    start = 0
    if named := re.search(r"(\w+)(?:\[(\d+)\]|\.(\w+))", problem):
        table = named[1] if named[3] is None else f"{named[1]}.{named[3]}"
        headers = list(re.finditer(rf"^\s*\[+\s*{re.escape(table)}\s*\]+", text, re.MULTILINE))
        nth = int(named[2] or 0)
        start = headers[nth].end() if nth < len(headers) else 0
    following = re.compile(r"^\s*\[", re.MULTILINE).search(text, start)
    inside = text[start : following.start() if following else len(text)]
    for word in re.findall(r"\w+", problem):
        if found := re.search(rf"^\s*{word}\s*=", inside, re.MULTILINE):
            return text.count("\n", 0, start + found.end()) + 1
        if found := None if named else re.search(rf"^\s*\[+\s*{word}\s*\]+", text, re.MULTILINE):
            return text.count("\n", 0, found.end()) + 1
    return text.count("\n", 0, start) + 1
