"""Where operating curves are kept: one JSON for each model, quantisation, backend, device and energy source.

The user's are in the cache directory; those of the package, in `curves/` beside this file, are read-only and
stand in where the user has fitted none. None are shipped until they have been measured.
"""

import hashlib
import json
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.cache_dir import cache_dir
from engine.config import ModelConfig
from engine.energy.curve import OF_MODEL, CurveKey, OperatingCurve
from engine.energy.curve_json import from_json, to_json
from engine.errors import TokenjouleError, UsageError

AUTO, NONE = "auto", "none"
BUNDLED = Path(__file__).parent / "curves"
_REMEDY = "remove the file, or fit the curve anew with bench.curves"
# What a config says that no cost depends on, or that the key says by itself.
_COSTS_NOTHING = ("eos_ids", "norm_eps", "shape_only", "quantization", "dtype")


def fingerprint(config: ModelConfig) -> str:
    """Of a model's shape: equal where a token costs the same, whatever the weights."""
    shape = {name: value for name, value in asdict(config).items() if name not in _COSTS_NOTHING}
    return hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:16]


def user_curves() -> Path:
    """The directory of the user's own curves; it may not exist yet."""
    return cache_dir() / "curves"


def file_name(key: CurveKey) -> str:
    """Of a key's curve: readable in front, exact by the digits behind."""
    words = [key.model, key.quantization, key.backend, key.device, key.source]
    slug = "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-.") for word in words)
    exact = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:10]
    return f"{slug[:120]}-{exact}.json"


def load_curve(path: Path) -> OperatingCurve:
    """The curve in a file. Raises `TokenjouleError` of one line for a file that holds none."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant))
    except OSError as error:
        raise TokenjouleError(f"cannot read the operating curve {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TokenjouleError(f"{path} is no operating curve: {error}") from error


def find_curve(key: CurveKey) -> OperatingCurve | None:
    """The curve of exactly this key, the user's before the package's; None where there is none.

    Raises `TokenjouleError` for a file in its place that holds no curve, or another key's.
    """
    for directory in (user_curves(), BUNDLED):
        path = directory / file_name(key)
        if path.is_file():
            try:
                curve = load_curve(path)
            except TokenjouleError as error:
                raise TokenjouleError(f"{error}; {_REMEDY}") from error
            try:
                curve.require(key)
            except TokenjouleError as error:
                raise TokenjouleError(f"{path}: {error}; {_REMEDY}") from error
            return curve
    return None


def choose_curve(choice: str | Path, key: CurveKey) -> OperatingCurve | None:
    """The curve that is kept for this key ("auto"), none ("none"), or the one in a file.

    A file's may be of another device or source, which `OperatingCurve.mismatch` tells: it then serves for its
    stopping rule, and its joules are not this run's. Raises `TokenjouleError`, and `UsageError` for a file
    whose curve is of another model.
    """
    if choice == NONE:
        return None
    if choice == AUTO:
        return find_curve(key)
    curve = load_curve(Path(choice))
    try:
        curve.require(key, OF_MODEL)
    except UsageError as error:
        raise UsageError(f"{choice}: {error}") from error
    return curve


def content_digest(path: str | None) -> str | None:
    """Of a curve's file, 16 hex digits; None where none can be read, which is said when it is used."""
    if path is not None:
        with suppress(OSError):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return None


def save_curve(curve: OperatingCurve, path: Path | None = None) -> Path:
    """Write a curve in one piece, to where `find_curve` looks unless told otherwise; returns the path.

    Raises `TokenjouleError` where it cannot be written.
    """
    path = path or user_curves() / file_name(curve.fits)
    text = json.dumps(to_json(curve), indent=1, allow_nan=False) + "\n"
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)  # mkstemp's own is for secrets
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):
                os.unlink(partial)
        raise TokenjouleError(f"cannot write the operating curve {path}: {error.strerror}") from error
    return path


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
