"""An operating curve as JSON and back, strictly: what is missing, unknown or of the wrong type is refused."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from engine.energy.curve import TERMS, OperatingCurve

SCHEMA = "tokenjoule.curve/1"


def to_json(curve: OperatingCurve) -> dict[str, Any]:
    """A plain object. Coefficients are named; covariances are in the order of their names."""
    content = {"schema": SCHEMA, **asdict(curve)}
    for name in ("energy", "seconds"):
        content[name]["coefficients"] = dict(zip(TERMS, content[name]["coefficients"], strict=True))
    return content


def from_json(content: object) -> OperatingCurve:
    """The curve of an object as `to_json` makes it. Raises `ValueError` saying what is wrong."""
    given = dict(_object(content, "the file"))
    schema = given.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"its schema is {schema!r}, not {SCHEMA!r}")
    given = {"accuracy": None, "power": None, "stopping": None, **given}
    if given["accuracy"] is not None:
        version = _object(given["accuracy"], "accuracy").get("version")
        if isinstance(version, bool) or not isinstance(version, int):
            raise ValueError("accuracy has no version, a whole number")
    for name in ("energy", "seconds"):
        if name in given:
            given[name] = _unnamed(given[name], name)
    curve: OperatingCurve = _made(OperatingCurve, given, "")
    return curve


def _unnamed(raw: object, name: str) -> dict[str, Any]:
    """A curve's object with its coefficients in their order."""
    given = dict(_object(raw, name))
    named = _object(given.get("coefficients"), f"{name}.coefficients")
    if set(named) != set(TERMS):
        raise ValueError(f"{name}.coefficients: wrong names: {', '.join(sorted(set(named) ^ set(TERMS)))}")
    return given | {"coefficients": [named[term] for term in TERMS]}


def _made(kind: Any, raw: object, name: str) -> Any:
    """The value of the annotated type `kind` in its JSON form `raw`; `name` is for errors."""
    if is_dataclass(kind):
        from engine.stop.rule import StoppingRule  # when modules load, it would come in a circle

        given = _object(raw, name or "the file")
        kinds = get_type_hints(kind, localns={"StoppingRule": StoppingRule})
        wrong = set(given) ^ {field.name for field in fields(kind)}
        if wrong:
            raise ValueError(
                f"missing or unknown: {', '.join(f'{name}.{key}'.lstrip('.') for key in sorted(wrong))}"
            )
        parts = {key: _made(kinds[key], value, f"{name}.{key}".lstrip(".")) for key, value in given.items()}
        build: Any = kind
        return build(**parts)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if raw is None and NoneType in inner else _made(inner[0], raw, name)
    if origin is tuple:
        return _tuple(inner, raw, name)
    if origin is Mapping:
        return {key: _made(inner[1], value, f"{name}.{key}") for key, value in _object(raw, name).items()}
    if kind is Any:
        return raw
    if kind is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    if kind in (str, bool, int) and type(raw) is kind:
        return raw
    raise ValueError(f"{name} must be a {kind.__name__}, found {raw!r}")


def _tuple(inner: tuple[Any, ...], raw: object, name: str) -> tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        raise ValueError(f"{name} is no list")
    kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(raw):
        raise ValueError(f"{name} has {len(raw)} values, not {len(kinds)}")
    return tuple(
        _made(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, raw, strict=True))
    )


def _object(raw: object, name: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{name} is no object")
    return raw
