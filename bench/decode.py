"""Decode and prefill speed, ours beside the peers', in one interleaved run.

    python -m bench.decode --model preset:llama-3.2-1b --random-weights --backends cpu,torch \
        --peers transformers,llama.cpp --quantize none,int8,int4 --out FILE.jsonl

Tables go to stdout, the last line of which is one JSON object; progress goes to stderr. Exports for the peers
are kept in --cache, some 9 GB for the 1B.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import fidelity, lineup, memory
from bench.arguments import add_common, counts, names
from bench.decode_run import DecodeRun, Plan
from bench.lineup import Skipped
from bench.record import Record, append
from bench.report import everything
from bench.source import default_cache, open_source
from bench.stamp import stamp
from bench.targets import outcomes
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError

ROOM = 0.9  # of the memory that is free at the start


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.decode", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add_common(cli, rounds=30)
    cli.add_argument("--random-weights", action="store_true")
    cli.add_argument("--peers", type=names, default=(), metavar="transformers,llama.cpp")
    cli.add_argument("--only", metavar="PATTERN", help="of these arms, those whose name the pattern finds")
    cli.add_argument("--contexts", type=counts, default=(128, 1024, 4096), metavar="N,N")
    cli.add_argument("--rows", type=counts, default=(1, 4, 8, 16), metavar="N,N")
    cli.add_argument("--prefill", type=int, default=512, metavar="N", help="tokens; 0: none")
    cli.add_argument("--steps", type=int, default=2, metavar="N", help="timed decode steps of a sample")
    cli.add_argument("--case-seconds", type=float, default=30.0, metavar="S", help="fewer rounds beyond this")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--no-memory", action="store_true", help="leave out the peak memory of each arm")
    cli.add_argument("--fidelity", action="store_true", help="beside the speeds, KL of these arms: 1 minute")
    cli.add_argument("--cache", type=Path, default=None, metavar="DIR", help=f"default: {default_cache()}")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    found, result = run(options, arguments)
    print(everything(found), end="\n\n")
    print(json.dumps(result))
    return 0


def run(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Record], dict[str, object]]:
    """(records, what the last line says). Raises `TokenjouleError` with one line."""
    begun = time.monotonic()
    if min(options.contexts) < options.steps + 2 or options.rounds < 2 or options.steps < 1:
        raise UsageError("at least 2 rounds, 1 step, and contexts of 2 more than the steps are needed")
    source = open_source(
        options.model,
        random_weights=options.random_weights,
        dtype=options.dtype,
        cache=options.cache or default_cache(),
        seed=options.seed,
    )
    longest = max(*options.contexts, options.prefill)
    if longest > source.config.max_context:
        raise UsageError(
            f"{source.model} has a context of {source.config.max_context}, {longest} was asked for"
        )
    plan = Plan(
        contexts=options.contexts,
        rows=options.rows,
        prefill=options.prefill,
        rounds=options.rounds,
        steps=options.steps,
        case_s=options.case_seconds,
        seed=options.seed,
        energy_source=options.energy_source,
        room_bytes=ROOM * memory.available() + memory.resident(),
        reader_bytes=options.reader_megabytes << 20,
    )
    wanted = lineup.entries(source, options.backends, options.peers, options.quantize, options.only)
    where = stamp("bench.decode", arguments, torch.device("cpu"))
    contenders, skipped = lineup.load(wanted)
    running = DecodeRun(source, contenders, plan, where, skipped)
    found: list[Record] = []

    def keep(record: Record) -> None:
        found.append(record)
        if options.out:
            append(options.out, [record])

    arms = [contender.arm for contender in contenders]
    for record in running.records():
        keep(record)
    for contender in contenders:
        contender.close()
    if not options.no_memory:
        decoded = {record.arm.name for record in found if "bytes" in record.derived}
        for arm in (arm for arm in arms if arm.name in decoded):
            print(f"peak memory of {arm.name}", file=sys.stderr, flush=True)
            keep(
                memory.record(source, arm, _weights(found, arm.name), where, f"{where.run}/memory {arm.name}")
            )
    if options.fidelity:
        fair = fidelity.chosen_arms(options.backends, options.quantize, ("bf16",))
        for subject in map(fidelity.Subject.of, fidelity.default_models()):
            for record in fidelity.records(fair, subject, where, fidelity.skip):
                keep(record)
    return found, _summary(found, running.skipped, running.interleaved, time.monotonic() - begun, options.out)


def _weights(records: Sequence[Record], arm: str) -> float:
    """Bytes that a step of one row at the shortest context reads: the weights, and a little cache."""
    reads = [r.derived["bytes"].value for r in records if r.arm.name == arm and "bytes" in r.derived]
    return min(value for value in reads if value is not None)


def _summary(
    records: Sequence[Record],
    skipped: Sequence[Skipped],
    interleaved: Sequence[Sequence[str]],
    elapsed_s: float,
    out: Path | None,
) -> dict[str, object]:
    """The run in one JSON object."""
    return {
        "schema": "tokenjoule.bench.decode/1",
        "run": records[0].stamp.run,
        "records": len(records),
        "file": None if out is None else str(out),
        "elapsed_s": round(elapsed_s, 1),
        "skipped": {missing.name: missing.reason for missing in skipped},
        "interleaved": [list(group) for group in interleaved],
        "targets": [
            {
                "name": outcome.target.name,
                "required": outcome.target.required,
                "aim": outcome.target.aim,
                "at_most": outcome.target.at_most,
                "measured": outcome.ratio.medians if outcome.ratio else None,
                "interval": [outcome.ratio.low, outcome.ratio.high] if outcome.ratio else None,
                "by_rounds": outcome.ratio.rounds if outcome.ratio else None,
                "holds": outcome.holds,
                "reason": outcome.reason or None,
            }
            for outcome in outcomes(records)
        ],
    }


if __name__ == "__main__":
    leave(main())
