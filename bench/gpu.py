"""Everything that needs a GPU, in parts of at most eight minutes, what is most worth knowing first.

    python -m bench.gpu --out results.jsonl [--only smoke,decode] [--minutes 9.5]
    python -m bench.gpu --list

Every part is a process of its own: one that fails, hangs or breaks the device is a record that says so, and
the next one goes on. Records are written as figures come. Without a CUDA device: one line, exit status 1.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.arguments import names
from bench.cuda.parts import LIMIT_S, Part, chosen
from bench.record import Arm, Case, Metric, Record, Stamp, append
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError

LEAST_S = 20.0  # left, for a part to be begun
BENCHMARK = "gpu/part"
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part's process ended; `reason` None where it did what it should."""

    elapsed_s: float
    reason: str | None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.gpu", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("--only", type=names, default=(), metavar="PART,PART", help="in this order")
    cli.add_argument("--out", type=Path, default=Path("gpu-results.jsonl"), metavar="FILE.jsonl")
    cli.add_argument("--minutes", type=float, metavar="N", help="of all parts; what does not fit is named")
    cli.add_argument("--device", type=int, default=0, metavar="N", help="CUDA device (default: 0)")
    cli.add_argument("--list", action="store_true", help="the parts and what they take, on any machine")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    parts = chosen(options.only)
    if options.list:
        print(listing(parts))
        return 0
    if options.minutes is not None and not options.minutes > 0:
        raise UsageError(f"--minutes must be positive, not {options.minutes:g}")
    if not torch.cuda.is_available():
        raise TokenjouleError(
            f"torch {torch.__version__} finds no CUDA device, without which there is nothing to measure; "
            "--list shows the parts"
        )
    if not 0 <= options.device < torch.cuda.device_count():
        raise UsageError(f"there is no CUDA device {options.device}; {torch.cuda.device_count()} were found")
    where = stamp("bench.gpu", arguments, torch.device("cuda", options.device))
    out = options.out.absolute()  # parts run in the repository's folder
    common = ["--run", where.run, "--command", shlex.join(where.command), "--out", str(out)]
    common += ["--device", f"cuda:{options.device}"]
    return run(parts, where, out, common, None if options.minutes is None else options.minutes * 60)


def listing(parts: Sequence[Part]) -> str:
    """One line a part, and the sum."""
    rows = [f"{part.name:10} {part.expected_s:4.0f} s  {part.what}" for part in parts]
    total_s = sum(part.expected_s for part in parts)
    rows.append(f"{'all':10} {total_s:4.0f} s  estimates, not measured; {LIMIT_S:.0f} s a part at most")
    return "\n".join(rows)


def run(parts: Sequence[Part], where: Stamp, out: Path, common: Sequence[str], total_s: float | None) -> int:
    """All parts in turn; 1 where one of them did not end as it should."""
    begun_s, failed = time.monotonic(), False
    for part in parts:
        left_s = LIMIT_S
        if total_s is not None:
            left_s = min(LIMIT_S, total_s - (time.monotonic() - begun_s))
        if left_s < LEAST_S:
            ended = Ended(0.0, f"not begun: {max(left_s, 0):.0f} s of the time given were left")
        else:
            print(f"== {part.name}, at most {left_s:.0f} s: {part.what}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "bench.cuda.run_part", part.name, *common]
            ended = run_part([*command, "--seconds", f"{left_s:.1f}"], left_s)
        append(out, [part_record(part, ended, where)])
        told = "done" if ended.reason is None else f"FAILED: {ended.reason}"
        print(f"== {part.name}: {told} after {ended.elapsed_s:.0f} s", file=sys.stderr, flush=True)
        failed |= ended.reason is not None
    print(f"records: {out}; python -m bench.report {out} shows them", flush=True)
    return 1 if failed else 0


def run_part(command: Sequence[str], limit_s: float) -> Ended:
    """A process with all it starts, ended at its limit; its stderr is shown as it comes, the end kept."""
    begun_s = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)

    def show() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.strip():
                last.append(line.strip())

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    try:
        status = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(timeout=5)
        return Ended(
            time.monotonic() - begun_s, f"ended by its limit of {limit_s:.0f} s; last: {_tail(last)}"
        )
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    reader.join(timeout=5)
    elapsed_s = time.monotonic() - begun_s
    if status == 0:
        return Ended(elapsed_s, None)
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return Ended(elapsed_s, f"{how}; last: {_tail(last)}")


def _tail(lines: Sequence[str]) -> str:
    return lines[-1] if lines else "it said nothing"


def part_record(part: Part, ended: Ended, where: Stamp) -> Record:
    """How long a part took, or why it has no end."""
    metric = Metric("s", (), ended.reason) if ended.reason else Metric("s", (ended.elapsed_s,))
    arm = Arm(part.name, "tokenjoule", "gpu", "none", "bfloat16", None, part.what)
    case = Case("part", True, part.name, 1, 0)
    return Record(BENCHMARK, where, arm, case, f"{where.run}/parts", {"run_s": metric})


if __name__ == "__main__":
    leave(main())
