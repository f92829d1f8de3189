"""An operating curve as JSON and back, strictly: what is missing, unknown or of the wrong type is refused."""

from dataclasses import asdict
from typing import Any

from engine.energy.curve import TERMS, OperatingCurve
from engine.strict import an_object, made

SCHEMA = "tokenjoule.curve/1"


def to_json(curve: OperatingCurve) -> dict[str, Any]:
    """A plain object. Coefficients are named; covariances are in the order of their names."""
    content = {"schema": SCHEMA, **asdict(curve)}
    for name in ("energy", "seconds"):
        content[name]["coefficients"] = dict(zip(TERMS, content[name]["coefficients"], strict=True))
    return content


def from_json(content: object) -> OperatingCurve:
    """The curve of an object as `to_json` makes it. Raises `ValueError` saying what is wrong."""
    given = dict(an_object(content, "the file"))
    schema = given.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"its schema is {schema!r}, not {SCHEMA!r}")
    given = {"accuracy": None, "power": None, "stopping": None, **given}
    if given["accuracy"] is not None:
        version = an_object(given["accuracy"], "accuracy").get("version")
        if isinstance(version, bool) or not isinstance(version, int):
            raise ValueError("accuracy has no version, a whole number")
    for name in ("energy", "seconds"):
        if name in given:
            given[name] = _unnamed(given[name], name)
    from engine.stop.rule import StoppingRule  # when modules load, it would come in a circle

    curve: OperatingCurve = made(OperatingCurve, given, known={"StoppingRule": StoppingRule})
    return curve


def _unnamed(raw: object, name: str) -> dict[str, Any]:
    """A curve's object with its coefficients in their order."""
    given = dict(an_object(raw, name))
    named = an_object(given.get("coefficients"), f"{name}.coefficients")
    if set(named) != set(TERMS):
        raise ValueError(f"{name}.coefficients: wrong names: {', '.join(sorted(set(named) ^ set(TERMS)))}")
    return given | {"coefficients": [named[term] for term in TERMS]}
