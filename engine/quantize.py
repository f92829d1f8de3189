"""`python -m engine.quantize SRC DST`: a model's weights packed once, in a directory that loads in place.

DST appears when it is complete: everything is written beside it first. stderr is progress and one line at
the end. Exit status: 0 done, 1 failed, 2 wrong usage, 130 cancelled with Ctrl-C.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine.cli import Parser, deferred_interrupt, guarded, leave
from engine.errors import UsageError


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    cli = Parser(prog="python -m engine.quantize", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("source", metavar="SRC", help="a directory, a Hugging Face id, or preset:NAME")
    cli.add_argument("target", metavar="DST", help="the directory to be made; absent, or empty")
    cli.add_argument("--quantize", choices=("int8", "int4"), required=True)
    cli.add_argument("--random-weights", action="store_true", help="shape only; what presets need")
    cli.add_argument("--seed", type=int, metavar="S", help="of random weights (default 0)")
    cli.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _run(parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    if options.seed is not None and not options.random_weights:
        raise UsageError("--seed goes with --random-weights")
    with deferred_interrupt():
        from engine.loading import LoadingLine
        from engine.save import save_quantized
    started_s = time.monotonic()
    with LoadingLine(quiet=options.quiet) as line:
        written = save_quantized(
            options.source,
            Path(options.target),
            options.quantize,
            random_weights=options.random_weights,
            seed=options.seed or 0,
            on_progress=line,
        )
    if not options.quiet:
        size, elapsed_s = f"{written / 1e6:.1f} MB", time.monotonic() - started_s
        print(f"{options.target}: {options.quantize}, {size} of weights, {elapsed_s:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    leave(main())
