"""A frozen dataclass of arrays as one file: an npz without pickles, so that reading one runs nothing.

Fields of inner dataclasses are named with dots. What is None is left out, and so needs that default.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from engine.errors import TokenjouleError
from engine.strict import made


def save_arrays(path: Path, value: Any, schema: str) -> None:
    """In one piece. Raises `TokenjouleError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(file, schema=np.asarray(schema), **dict(_flat(asdict(value))))
        os.replace(partial, path)
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error


def load_arrays(path: Path, kind: Any, schema: str) -> Any:
    """The `kind` that was saved. Raises `TokenjouleError` of one line for a file that is none."""
    try:
        if path.is_file() and not is_zipfile(path):  # numpy would go on to advise on pickles
            raise ValueError("no archive of arrays")
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
        if str(content.pop("schema", None)) != schema:
            raise ValueError(f"its schema is not {schema}")
        return made(kind, _nested(content))
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds
        why = getattr(error, "strerror", None) or error  # which does not name the path again
        raise TokenjouleError(f"{path} is no {kind.__name__.lower()}: {why}") from error


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{prefix}{name}.")
        elif part is not None:
            yield f"{prefix}{name}", np.asarray(part)


def _nested(content: Mapping[str, Any]) -> dict[str, Any]:
    """Texts and single numbers as Python's own."""
    found: dict[str, Any] = {}
    for name, array in content.items():
        *outer, last = name.split(".")
        inside = found
        for part in outer:
            inside = inside.setdefault(part, {})
        inside[last] = array if array.ndim and array.dtype.kind in "biuf" else array.tolist()
    return found
