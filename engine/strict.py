"""Frozen dataclasses from parsed JSON or TOML: what is missing, unknown or of the wrong type is refused."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


def made(kind: Any, raw: object, name: str = "", known: Mapping[str, Any] | None = None) -> Any:
    """The value of the annotated type `kind` in its parsed form `raw`. Raises `ValueError`.

    A field with a default may be left out. `name` is for errors; `known`: names in annotations that its
    module has for type checking alone.
    """
    if is_dataclass(kind):
        given = an_object(raw, name or "the file")
        kinds = get_type_hints(kind, localns=dict(known or {}))
        needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
        wrong = (needed - given.keys()) | (given.keys() - {field.name for field in fields(kind)})
        if wrong:
            listed = ", ".join(f"{name}.{key}".lstrip(".") for key in sorted(wrong))
            raise ValueError(f"missing or unknown: {listed}")
        parts = {
            key: made(kinds[key], value, f"{name}.{key}".lstrip("."), known) for key, value in given.items()
        }
        build: Any = kind
        return build(**parts)
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        return None if raw is None and NoneType in inner else made(inner[0], raw, name, known)
    if origin is tuple:
        return _tuple(inner, raw, name, known)
    if origin is Mapping:
        return {
            key: made(inner[1], value, f"{name}.{key}", known) for key, value in an_object(raw, name).items()
        }
    if kind is Any:
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
