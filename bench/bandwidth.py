"""How fast this machine reads memory: several readers of one large buffer, of which the fastest is the limit.

    python -m bench.bandwidth

No single reader is trusted: torch's sum and product are bound by arithmetic on some machines (its sum of
int32 reaches 1.3 of 32 GB/s and is left out), numpy reads with one thread. Ours is the crew that the `cpu`
backend decodes with.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from bench.record import Arm, Case, Metric, Record, Stamp, Value, append
from bench.stamp import stamp
from bench.timing import Timed, interleave, settle
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError
from kernels.cpu.crew import cores

BUFFER_BYTES = 1 << 30  # far beyond every last-level cache of a CPU; 32 MB here, 50 MB on an H100
_COLUMNS = 4096


@dataclass(frozen=True, slots=True)
class Reader:
    """`timed` reads `bytes` once."""

    timed: Timed
    bytes: int
    dtype: str
    threads: int | None


def buffer(size: int = BUFFER_BYTES, device: torch.device | None = None) -> torch.Tensor:
    """(size / 4,) fp32, every page written, no zeros: pages of zeros may all be one page."""
    data = torch.empty(size // 4 // _COLUMNS * _COLUMNS, device=device)
    block = torch.rand(1 << 20, device=device) + 0.5
    for part in data.split(len(block)):
        part.copy_(block[: len(part)])
    return data


def readers(data: torch.Tensor, threads: Sequence[int] = ()) -> list[Reader]:
    """All readers of `data` on its device. `threads`: of our own crew, on a CPU, each a reader."""
    size = data.nbytes
    table, vector = data.view(-1, _COLUMNS), data[:_COLUMNS].clone()

    own = cores() if data.device.type == "cpu" else None

    def reader(name: str, run: Callable[[], object], dtype: str, count: int | None) -> Reader:
        def setup() -> None:
            if own is not None:
                torch.set_num_threads(own)
            settle()
            run()

        return Reader(Timed(f"read: {name}", run, setup), size, dtype, count)

    found = [
        reader("torch sum fp32", data.sum, "float32", own),
        reader("torch mv fp32", lambda: torch.mv(table, vector), "float32", own),
    ]
    if data.device.type == "cpu":
        from bench.crew_reader import crew_reader

        found.append(reader("numpy sum fp32", data.numpy().sum, "float32", 1))
        for count in threads:
            found.append(reader(f"our crew of {count}", crew_reader(data.numpy(), count), "int64", count))
    return found


def record(
    reader: Reader, seconds: Sequence[float], where: Stamp, group: str, *, model: str = "buffer"
) -> Record:
    """One reader's samples as a record."""
    took = Metric("s", tuple(seconds))
    assert took.median is not None
    rate = Value("B/s", reader.bytes / took.median, source="bytes of the buffer / median time")
    return Record(
        "bandwidth",
        where,
        Arm(reader.timed.name, "reader", reader.timed.name, "none", reader.dtype, reader.threads),
        Case(model, False, "read", 1, 0, 0, (reader.bytes,)),
        group,
        {"run_s": took},
        {"bandwidth": rate},
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.bandwidth", description=__doc__.split("\n\n")[0])
    cli.add_argument("--rounds", type=int, default=9, metavar="N")
    cli.add_argument("--megabytes", type=int, default=BUFFER_BYTES >> 20, metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.rounds < 2 or options.megabytes < 1:
        raise UsageError("at least 2 rounds and 1 megabyte are needed")
    print(json.dumps(run(options, arguments)))
    return 0


def run(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, object]:
    """Gigabytes per second of each reader: median and best round."""
    found = readers(buffer(options.megabytes << 20), sorted({1, cores()}))
    seconds = interleave([reader.timed for reader in found], rounds=options.rounds)
    if options.out:
        where = stamp("bench.bandwidth", arguments, torch.device("cpu"))
        group = f"{where.run}/read"
        append(options.out, [record(r, seconds[r.timed.name], where, group) for r in found])
    return {
        reader.timed.name: {
            "gb_per_s": round(reader.bytes / median(seconds[reader.timed.name]) / 1e9, 2),
            "best_gb_per_s": round(reader.bytes / min(seconds[reader.timed.name]) / 1e9, 2),
        }
        for reader in found
    }


if __name__ == "__main__":
    leave(main())
