"""Modules of Triton kernels, each in a process of its own in which Triton interprets them.

Triton decides when it is imported whether kernels are compiled or interpreted, for the whole process.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MODULES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
# Run every time: the whole engine on all kernels of a step, and prefill.
# The others, and the slow parts of these, take some minutes and run with the slow tests.
QUICK = [module for module in MODULES if module.stem in ("test_engine", "test_prefill")]
Done = subprocess.CompletedProcess[str]


def version(text: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) for part in text.split(".")[:2])


def refusal() -> str:
    """Why nothing can be interpreted here, or ""."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is published for Linux only"
    if version(triton) < (3, 7) and version(metadata.version("numpy")) >= (2, 4):
        return "Triton's interpreter before 3.7 makes a number of an array, which numpy 2.4 refuses"
    return ""


@contextmanager
def begun(marked: Mapping[Path, str], *, workers: int) -> Iterator[dict[Path, Future[Done]]]:
    """Runs of the tests marked so in each module, as many at a time as `workers`; ended with the block."""
    started: list[subprocess.Popen[str]] = []

    def run(module: Path, which: str) -> Done:
        options = ("-q", "-p", "no:cacheprovider", "-m", which, str(module))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    pool = ThreadPoolExecutor(workers)
    try:
        yield {module: pool.submit(run, module, which) for module, which in marked.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.terminate()  # nobody asked for what is still running
        pool.shutdown()
