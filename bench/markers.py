"""Parts of a text file that commands write: between `<!-- bench:NAME -->` and `<!-- end bench:NAME -->`."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from engine.errors import TokenjouleError, UsageError

MARK = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- end bench:\2 -->)", re.DOTALL)
# "stop" and "policies" are parts of `bench.experiments.stop`, all others are those of `bench.report`.
_REPORTED = ("decode", "fidelity", "gpu", "aot", "attribution", "router", "testbed", "kernels")
NAMES = (*_REPORTED, "stop", "policies")


def fill(path: Path, parts: Mapping[str, Callable[[], str]]) -> None:
    """Replace what stands between the markers of `parts`; those of other commands stay as they are.

    Raises `UsageError` for a file without any of `parts`, and for a marker that no command knows.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    there = [match[2] for match in MARK.finditer(text)]
    if unknown := [name for name in there if name not in NAMES]:
        raise UsageError(f"{path} has an unknown marker {unknown[0]!r}; {_spelled(NAMES)}")
    if not set(there) & set(parts):
        raise UsageError(f"{path} has no marker; {_spelled(parts)}")

    def filled(match: re.Match[str]) -> str:
        part = parts.get(match[2])
        return match[0] if part is None else f"{match[1]}{part().rstrip()}\n{match[4]}"

    path.write_text(MARK.sub(filled, text), encoding="utf-8")


def _spelled(names: Iterable[str]) -> str:
    return ", ".join(f"<!-- bench:{name} -->" for name in names)
