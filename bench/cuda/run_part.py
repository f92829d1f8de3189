"""One part of `bench.gpu` in a process of its own; `bench.gpu` starts it.

    python -m bench.cuda.run_part PART --out FILE.jsonl --run ID --seconds S --command "…"

With `--scale tiny` it runs at sizes that a CPU takes, too, which is how it is tested.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.arguments import names
from bench.cuda.parts import PARTS, chosen
from bench.cuda.setting import FULL, TINY, Setting
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave

SCALES = {"full": FULL, "tiny": TINY}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.cuda.run_part", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("part", choices=[part.name for part in PARTS])
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl")
    cli.add_argument("--run", metavar="ID", help="of the run that the part belongs to")
    cli.add_argument("--command", default="", help="that was given for the whole run")
    cli.add_argument("--seconds", type=float, default=480.0, metavar="S")
    cli.add_argument("--groups", type=names, default=(), metavar="A,B", help="of the part, default all")
    cli.add_argument("--device", default="cuda:0")
    cli.add_argument("--backend", default="gpu", choices=("gpu", "torch"))
    cli.add_argument("--scale", default="full", choices=SCALES)
    cli.add_argument("--energy-source", default="nvml")
    return cli


def command_of(setting: Setting, seconds: float, groups: tuple[str, ...] = ()) -> list[str]:
    """What, after the interpreter, starts this part again with `groups` of it."""
    scale = next(name for name, scale in SCALES.items() if scale is setting.scale)
    given = [
        *("--run", setting.where.run, "--command", shlex.join(setting.where.command)),
        *("--seconds", str(seconds), "--device", str(setting.device), "--backend", setting.backend),
        *("--scale", scale, "--energy-source", setting.energy_source),
    ]
    given += ["--out", str(setting.out)] if setting.out is not None else []
    given += ["--groups", ",".join(groups)] if groups else []
    return ["-m", "bench.cuda.run_part", setting.part, *given]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    until_s = time.monotonic() + options.seconds
    device = torch.device(options.device)
    (part,) = chosen((options.part,))
    where = stamp("bench.cuda.run_part", arguments, device, run=options.run)
    if options.command:
        where = replace(where, command=tuple(shlex.split(options.command)))
    setting = Setting(
        part.name,
        device,
        options.backend,
        SCALES[options.scale],
        where,
        options.energy_source,
        options.out,
        until_s,
        options.groups,
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    part.load()(setting)
    return 0


if __name__ == "__main__":
    leave(main())
