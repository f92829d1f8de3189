"""A user's policy from a file: `path/to/file.py:Class`."""

import importlib.util
from pathlib import Path

from engine.errors import UsageError
from engine.steps import StopPolicy, tapped_layers


def load_policy(reference: str) -> StopPolicy:
    """An instance of the class, made without arguments. Raises `UsageError` saying what is wrong."""
    file, separator, name = reference.rpartition(":")
    if not separator or not file or not name:
        raise UsageError(f"a stop policy is given as FILE:CLASS, not {reference!r}")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"stop policy: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"stop_policy_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"stop policy: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        policy = getattr(module, name)()
    except AttributeError as error:
        if not hasattr(module, name):
            raise UsageError(f"stop policy: {file} has no class {name}") from error
        raise UsageError(f"stop policy: {reference} failed: {error}") from error
    except Exception as error:
        raise UsageError(f"stop policy: {reference} failed: {type(error).__name__}: {error}") from error
    return checked(policy, reference)


def checked(policy: StopPolicy, reference: str) -> StopPolicy:
    """`policy`, if it has what the decode loop calls."""
    needs = getattr(policy, "needs", None)
    if not isinstance(needs, frozenset):
        raise UsageError(f"stop policy {reference}: needs must be a frozenset, found {type(needs).__name__}")
    try:
        tapped_layers(needs)
    except UsageError as error:
        raise UsageError(f"stop policy {reference}: {error}") from error
    for method in ("reset", "on_token", "on_probe"):
        if not callable(getattr(policy, method, None)):
            raise UsageError(f"stop policy {reference}: it has no method {method}")
    return policy
