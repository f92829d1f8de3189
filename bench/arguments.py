"""What the command lines of the benchmarks share: lists of names and of counts, and common options."""

import argparse
from pathlib import Path

from bench.bandwidth import BUFFER_BYTES
from engine.errors import UsageError


def names(text: str) -> tuple[str, ...]:
    """From "a,b"."""
    return tuple(name for name in text.split(",") if name)


def counts(text: str) -> tuple[int, ...]:
    """From "1,4"; in the order given, each at least 1."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"counts are at least 1, not {min(found)}")
    return found


def add_common(cli: argparse.ArgumentParser, *, rounds: int) -> None:
    """Options that mean the same everywhere."""
    cli.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME", help="default: bundled:chain")
    cli.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    cli.add_argument("--backends", "--backend", type=names, default=("cpu", "torch"), metavar="A,B")
    cli.add_argument("--quantize", type=names, default=("none",), metavar="none,int8,int4")
    cli.add_argument("--rounds", type=int, default=rounds, metavar="N")
    cli.add_argument("--seed", type=int, default=0, metavar="N")
    cli.add_argument("--reader-megabytes", type=int, default=BUFFER_BYTES >> 20, metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")


def add_engine(group: "argparse._ArgumentGroup") -> None:
    """Which model runs, and where; None where not given, as with `--from` none of them means anything."""
    group.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME", help="default: bundled:chain")
    group.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"))
    group.add_argument("--device", metavar="N", help="CUDA device, or cpu")
    group.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"))
    group.add_argument("--quantize", choices=("none", "int8", "int4"))
    group.add_argument("--energy-source", metavar="SOURCE", help="default: auto")


def refuse_beside_from(
    cli: argparse.ArgumentParser, options: argparse.Namespace, *, kept: tuple[str, ...] = ()
) -> None:
    """With --from nothing runs: what tells how would be ignored. Raises `UsageError` for the first of it.

    `kept`: what has a meaning all the same.
    """
    for name, value in vars(options).items():
        if name not in ("files", "plot", *kept) and value != cli.get_default(name):
            raise UsageError(f"--from runs nothing, so --{name.replace('_', '-')} has no meaning with it")
