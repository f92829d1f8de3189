"""Every stage of a layer on its own, and a layer in one call: time, bytes, operations, share of the roofline.

    python -m bench.kernels --backends cpu,torch --model preset:llama-3.2-1b --quantize none,int8,int4

The roofline: the fastest reader of memory and the fastest matrix product of torch, both in this run. Weights
are random, of the model's shapes. Tables go to stdout, the last line of which is one JSON object. With
--energy every stage is repeated for a second or more under a meter, and so is a whole decode step of the
model, which must fit into memory: joules of a call, gross and less idle, and what the stages leave.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from bench import stages, tables
from bench.arguments import add_common, counts
from bench.bandwidth import Reader, buffer, readers
from bench.bandwidth import record as reader_record
from bench.contender import best_threads
from bench.lineup import SCHEMES, Skipped, known
from bench.record import Arm, Case, Metric, Record, Stamp, Value, append
from bench.stage_energy import StageMeter, metering
from bench.stages import COSTS, Bench, Subject
from bench.stamp import stamp
from bench.step_energy import step_records
from bench.timing import Timed, WrongAnswer, interleave, nothing, ratio, settle
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError
from engine.locate import locate
from engine.placement import choose_dtype
from engine.source import read_config
from kernels.api import BACKENDS, Backend, BackendUnavailable, load
from kernels.cpu.crew import cores

CPU = torch.device("cpu")
PRODUCT = 2048  # rows and columns of the two matrices whose product shows the peak
READERS = 2
SLOW = 20.0  # an arm that takes this many times as long as the fastest runs in three rounds only


@dataclass(frozen=True, slots=True)
class Limits:
    """The roofline of this run: operations per second, and the readers that show the bandwidth."""

    flops: float
    readers: tuple[Reader, ...]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.kernels", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add_common(cli, rounds=12)
    cli.add_argument("--stages", metavar="PATTERN", default="", help="those whose name holds this")
    cli.add_argument("--rows", type=counts, default=(1, 4, 8, 16), metavar="N,N")
    cli.add_argument("--contexts", "--context", type=counts, default=(128, 4096), metavar="N,N")
    cli.add_argument("--energy", action="store_true", help="joules of each stage and of a whole step, too")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.rounds < 2:
        raise UsageError("at least 2 rounds are needed")
    known(options.backends, BACKENDS, "backend")
    known(options.quantize, SCHEMES, "scheme")
    chosen = [stage for stage in COSTS if options.stages in stage]
    if not chosen:
        raise UsageError(f"no stage holds {options.stages!r}; there are {', '.join(COSTS)}")
    if not options.energy and (options.energy_source != "auto" or options.require_measured):
        raise UsageError("--energy-source and --require-measured need --energy")
    where = stamp("bench.kernels", arguments, CPU)
    skipped: list[Skipped] = []
    found = []
    with ExitStack() as held:
        meter = None
        if options.energy:
            print("idle", file=sys.stderr, flush=True)
            meter = held.enter_context(
                metering(options.energy_source, CPU, measured=options.require_measured)
            )
        for record in run(options, chosen, where, skipped, meter):
            found.append(record)
            if options.out:
                append(options.out, [record])
    parts = [tables.stage_table(found), tables.step_table(found), tables.bandwidth_table(found)]
    print(*(part for part in parts if part), sep="\n\n", end="\n\n")
    result = {
        "schema": "tokenjoule.bench.kernels/1",
        "run": where.run,
        "records": len(found),
        "file": None if options.out is None else str(options.out),
        "skipped": {missing.name: missing.reason for missing in skipped},
    }
    print(json.dumps(result))
    return 0


def run(
    options: argparse.Namespace,
    chosen: Sequence[str],
    where: Stamp,
    skipped: list[Skipped],
    meter: StageMeter | None = None,
) -> Iterator[Record]:
    """A record for each stage, case and arm; what is left out is added to `skipped`."""
    found = locate(options.model)
    config = read_config(found, random_weights=True)
    dtype = choose_dtype(options.dtype, config)
    data = readers(buffer(options.reader_megabytes << 20), sorted({1, cores()}))
    seconds = interleave([reader.timed for reader in data], rounds=9)
    yield from (reader_record(r, seconds[r.timed.name], where, f"{where.run}/read") for r in data)
    fastest = sorted(data, key=lambda r: median(seconds[r.timed.name]) / r.bytes)[:READERS]
    limits = Limits(peak_flops(dtype), tuple(fastest))
    print(f"torch's matrix product: {limits.flops / 1e9:.0f} GFLOP/s", file=sys.stderr)
    for scheme in options.quantize:
        given = stages.subject(config, dtype, scheme)
        backends = _backends(options.backends, given, skipped)
        for stage in chosen:
            for rows in options.rows:
                contexts = options.contexts if stage in ("attention", "layers") else (min(options.contexts),)
                for context in contexts:
                    case = Case(found.id, True, stage, rows, context, 1, given.shape(stage))
                    yield from _measure(options, given, backends, case, limits, where, skipped, meter)
        if meter is not None:
            cases = [(rows, context) for rows in options.rows for context in options.contexts]
            yield from step_records(config, given, tuple(backends), cases, found.id, where, skipped, meter)


def peak_flops(dtype: torch.dtype) -> float:
    """Operations per second of torch's product of two square matrices, in the best of some runs."""
    a, b = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
    threads = best_threads(lambda: a @ b, torch.set_num_threads)
    product = Timed("product", lambda: a @ b, setup=partial(torch.set_num_threads, threads))
    return 2.0 * PRODUCT**3 / min(interleave([product], rounds=5)["product"])


def _backends(wanted: Sequence[str], given: Subject, skipped: list[Skipped]) -> dict[str, Backend]:
    """Those that can take the weights, with their threads measured where they have any."""
    ready = {}
    for name in wanted:
        try:
            backend = load(name, CPU)
            backend.prepare_head(given.head, given.config.norm_eps)
            backend.prepare_layer(given.layer, given.config.attention_shape(0), given.config.norm_eps)
        except BackendUnavailable as error:
            skipped.append(Skipped(f"{name} {given.scheme}", str(error)))
            print(f"skipped {name} {given.scheme}: {error}", file=sys.stderr)
            continue
        ready[name] = backend
    return ready


def _measure(
    options: argparse.Namespace,
    given: Subject,
    backends: dict[str, Backend],
    case: Case,
    limits: Limits,
    where: Stamp,
    skipped: list[Skipped],
    meter: StageMeter | None,
) -> Iterator[Record]:
    """One stage in one case, all backends interleaved; their joules behind that, one after the other."""
    cache = stages.last_level_cache(CPU)
    benches: dict[str, Bench] = {}
    for name, backend in backends.items():
        label = f"{name} {given.scheme}"
        made = stages.prepare(
            backend, given, case.phase, case.rows, case.context, cache_bytes=cache, name=label
        )
        try:
            made.timed.check()
        except WrongAnswer as error:
            skipped.append(Skipped(f"{label} {case.phase}, {case.rows} rows", f"wrong answer: {error}"))
            print(f"skipped {label} {case.phase}, {case.rows} rows: wrong answer: {error}", file=sys.stderr)
            continue
        benches[name] = made
    if not benches:
        return
    group = f"{where.run}/{case.phase} {given.scheme} {case.rows}x{case.context}"
    print(group.partition("/")[2], file=sys.stderr, flush=True)
    threads = {name: _threads(made, backends[name]) for name, made in benches.items()}
    slowest = SLOW * min(_seconds(made) for made in benches.values())
    arms = [_with_threads(made, threads[name], slowest) for name, made in benches.items()]
    every = [*arms, *(reader.timed for reader in limits.readers)]
    taken = interleave(every, rounds=options.rounds, seed=options.seed, budget_s=10.0)
    best = min(limits.readers, key=lambda r: median(taken[r.timed.name]) / r.bytes)
    for timed, (name, made) in zip(arms, benches.items(), strict=True):
        dtype = str(given.dtype).removeprefix("torch.")
        arm = Arm(made.timed.name, "tokenjoule", name, given.scheme, dtype, threads[name], made.note)
        record = _record(
            given, arm, case, taken[made.timed.name], best, taken[best.timed.name], limits, where, group
        )
        if meter is not None:
            timed.setup()
            joules = meter.stage(made, arm.name, case.phase, case.rows, case.context)
            record = replace(record, derived={**record.derived, **joules})
        yield record


def _threads(made: Bench, backend: Backend) -> int:
    """Those of a backend that measures its own, else as many of torch's as do one call fastest."""
    own = getattr(backend, "threads", None)
    return best_threads(made.once, torch.set_num_threads) if own is None else own


def _seconds(made: Bench) -> float:
    begun = time.perf_counter()
    made.once()
    return time.perf_counter() - begun


def _with_threads(made: Bench, threads: int, slow_s: float) -> Timed:
    """The arm for `interleave`; three rounds are enough for one that takes longer than `slow_s` a call."""

    def setup() -> None:
        settle()
        torch.set_num_threads(threads)
        made.once()  # wakes the arm's own threads

    return replace(made.timed, setup=setup, check=nothing, most=3 if _seconds(made) > slow_s else None)


def _record(
    given: Subject,
    arm: Arm,
    case: Case,
    samples: Sequence[float],
    best: Reader,
    reads: Sequence[float],
    limits: Limits,
    where: Stamp,
    group: str,
) -> Record:
    work = given.cost(case.phase, case.rows, case.context)
    took = median(samples)
    # the roofline of each round: memory as fast as it was just then
    least = [max(work.bytes * read / best.bytes, work.flops / limits.flops) for read in reads]
    share = ratio(least[: len(samples)], samples)
    derived = {
        "bandwidth": Value("B/s", work.bytes / took, source="kernels.cost"),
        "compute": Value("FLOP/s", work.flops / took, source="kernels.cost"),
        "bytes": Value("B", work.bytes, source="kernels.cost"),
        "peak_compute": Value("FLOP/s", limits.flops, source=f"torch matmul of {PRODUCT}²"),
        "roofline_share": Value("1", share.medians, share.low, share.high, best.timed.name),
    }
    return Record("kernels", where, arm, case, group, {"run_s": Metric("s", tuple(samples))}, derived)


if __name__ == "__main__":
    leave(main())
