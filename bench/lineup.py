"""Which arms a run of `bench.decode` has, by their names; what cannot run is skipped by name."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.contender import Contender
from bench.engine_contender import EngineContender
from bench.source import Source
from engine.errors import TokenjouleError, UsageError
from kernels.api import BACKENDS, BackendUnavailable

PEERS = ("transformers", "llama.cpp")
SCHEMES = ("none", "int8", "int4")
LLAMA_KINDS = {"int8": "Q8_0", "int4": "Q4_0"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One arm that was asked for; `make` loads it."""

    name: str
    engine: str
    quantization: str
    make: Callable[[], Contender]


@dataclass(frozen=True, slots=True)
class Skipped:
    """An arm that was asked for and did not run."""

    name: str
    reason: str


def known(given: Sequence[str], names: Sequence[str], what: str) -> None:
    """Raises `UsageError` for what is not among the names."""
    foreign = next((name for name in given if name not in names), None)
    if foreign is not None:
        raise UsageError(f"unknown {what} {foreign!r}; known: {', '.join(names)}")


def entries(
    source: Source, backends: Sequence[str], peers: Sequence[str], schemes: Sequence[str], only: str | None
) -> list[Entry]:
    """Every arm of the three lists, where `only` finds its name. Raises `UsageError` for unknown names."""
    known(backends, BACKENDS, "backend")
    known(peers, PEERS, "peer")
    known(schemes, SCHEMES, "scheme")

    def ours(backend: str, scheme: str) -> Entry:
        make = lambda: EngineContender(source, backend, scheme)  # noqa: E731
        return Entry(f"{backend} {scheme}", "tokenjoule", scheme, make)

    def llama(kind: str) -> Entry:
        def make() -> Contender:
            from bench.peers.llama_cpp_peer import LlamaCpp

            return LlamaCpp(source, kind)

        return Entry(f"llama.cpp {kind}", "llama.cpp", kind, make)

    def transformers() -> Contender:
        from bench.peers.transformers_peer import Transformers

        return Transformers(source)

    found = [ours(backend, scheme) for scheme in schemes for backend in backends]
    if "transformers" in peers and "none" in schemes:
        found.append(Entry("transformers none", "transformers", "none", transformers))
    if "llama.cpp" in peers:
        found += [llama(LLAMA_KINDS.get(scheme, source.plain)) for scheme in schemes]
    if only is not None:
        try:
            pattern = re.compile(only)
        except re.error as error:
            raise UsageError(f"--only {only!r} is not a pattern: {error}") from error
        found = [entry for entry in found if pattern.search(entry.name)]
    if not found:
        raise UsageError("no arm is left to run")
    return found


def load(wanted: Sequence[Entry]) -> tuple[list[Contender], list[Skipped]]:
    """Load the arms, the missing ones skipped. Raises `TokenjouleError` where none is left."""
    ready: list[Contender] = []
    skipped: list[Skipped] = []
    for entry in wanted:
        print(f"loading {entry.name}", file=sys.stderr, flush=True)
        try:
            ready.append(entry.make())
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            skipped.append(Skipped(entry.name, f"{package} is not installed (pip install -e '.[peers]')"))
        except (BackendUnavailable, TokenjouleError, OSError) as error:
            skipped.append(Skipped(entry.name, str(error).splitlines()[0]))
    for missing in skipped:
        print(f"skipped {missing.name}: {missing.reason}", file=sys.stderr, flush=True)
    if not ready:
        raise TokenjouleError("no arm could be loaded")
    return ready, skipped
