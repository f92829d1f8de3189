"""Peak memory of one arm: a process of its own that imports, loads, decodes a few tokens and looks back.

    python -m bench.memory --arm "cpu none" --directory DIR --cache DIR --key KEY

`bench.decode` calls it. Counted is VmHWM, resident pages of mapped files included, less what the process
held once everything was imported. The cache of the few tokens is a part of it, some megabytes.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.source import Source
from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError
from engine.placement import DTYPES
from kernels.cpu.crew import cores

STEPS, START = 3, 8
TIMEOUT_S = 600


def resident(key: str = "VmRSS") -> int:
    """Bytes this process holds in memory, with "VmHWM" at its peak. Raises `TokenjouleError` off Linux."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError as error:
        raise TokenjouleError(f"the system does not tell a process its memory: {error}") from error
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, status
    return int(found[1]) * 1024


def available() -> int:
    """Bytes that processes may still take. Raises `TokenjouleError` off Linux."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError as error:
        raise TokenjouleError(f"the system does not tell its free memory: {error}") from error
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1]) * 1024


def record(source: Source, arm: Arm, weights: float, where: Stamp, group: str) -> Record:
    """The peak of `arm` in a process of its own, beside the bytes of its weights."""
    case = Case(source.model, source.shape_only, "load", 1, START, STEPS)
    try:
        peak = Metric("B", (float(_ask(source, arm.name)),))
    except (TokenjouleError, OSError, ValueError, subprocess.SubprocessError) as error:
        peak = Metric("B", (), str(error).splitlines()[0])
    derived = {"weights": Value("B", weights, source="read by a decode step")}
    if peak.median is not None:
        derived["peak_over_weights"] = Value("1", peak.median / weights)
    return Record("memory", where, arm, case, group, {"peak_b": peak}, derived)


def _ask(source: Source, arm: str) -> int:
    told = [
        *("--arm", arm, "--model", source.model, "--directory", str(source.directory)),
        *("--dtype", str(source.dtype).removeprefix("torch.")),
        *("--cache", str(source.cache), "--key", source.key),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", *told],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if done.returncode:
        raise TokenjouleError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return int(json.loads(done.stdout.splitlines()[-1])["peak_b"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    cli = Parser(prog="bench.memory", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    for name in ("arm", "model", "directory", "dtype", "cache", "key"):
        cli.add_argument(f"--{name}", required=True)
    return guarded(lambda: _main(cli.parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    source = Source(
        options.model,
        Path(options.directory),
        False,
        getattr(torch, options.dtype),
        Path(options.cache),
        options.key,
    )
    print(json.dumps({"peak_b": measure(source, options.arm)}))
    return 0


def measure(source: Source, arm: str) -> int:
    """Bytes at the peak of loading `arm` and decoding, less those after the imports."""
    engine, _, packing = arm.rpartition(" ")
    if engine == "transformers":
        use = _transformers(source)
    elif engine == "llama.cpp":
        use = _llama_cpp(source, packing)
    else:
        use = _tokenjoule(source, engine, packing)
    before = resident("VmHWM")
    use()
    return resident("VmHWM") - before


def _tokenjoule(source: Source, backend: str, scheme: str) -> Callable[[], object]:
    """Import what the arm needs; the rest is returned."""
    from engine.engine import Engine

    dtype = next(name for name, kind in DTYPES.items() if kind is source.dtype)
    directory = source.packed(scheme)
    # The bundled model has everything imported, compiled and linked: what a peer's library brings along.
    Engine.load(backend=backend, dtype=dtype, quantize=scheme).close()

    def use() -> None:
        with Engine.load(directory, backend=backend, dtype=dtype) as engine:
            engine.generate([1] * START, max_new_tokens=STEPS, ignore_eos=True)

    return use


def _transformers(source: Source) -> Callable[[], object]:
    """As above. The arm that is timed borrows our tensors, which would hide its own way of loading."""
    import transformers

    kind = getattr(transformers, source.config.architecture)

    def use() -> None:
        model = kind.from_pretrained(source.directory, dtype=source.dtype)
        model.generate(torch.ones(1, START, dtype=torch.long), max_new_tokens=STEPS, do_sample=False)

    return use


def _llama_cpp(source: Source, kind: str) -> Callable[[], object]:
    """As above."""
    from bench.peers.llama_cpp_api import LlamaContext, LlamaModel, library

    path = source.gguf(kind)
    library()

    def use() -> None:
        model = LlamaModel(path)
        context = LlamaContext(model, rows=1, length=START + STEPS, threads=cores(), batch=START)
        context.prefill([1] * START)
        for step in range(STEPS):
            context.decode([1], [START + step])
        context.close()
        model.close()

    return use


if __name__ == "__main__":
    leave(main())
