"""JSONL records to markdown tables, and to a picture.

    python -m bench.report FILE.jsonl… [--figure FILE.png] [--update FILE.md]

Of each benchmark, and of `bench.aot` of each variant, the newest run counts; `--run ID` takes another.
`--update` replaces what stands between `<!-- bench:decode -->` and `<!-- end bench:decode -->`, as in
README.md and docs/results.md.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import tables
from bench.aot_table import aot_section, aot_tables
from bench.attribution.table import attribution_section, attribution_tables
from bench.fidelity_table import fidelity_table
from bench.gpu_table import everything_gpu, gpu_section
from bench.markers import fill
from bench.record import Record, read
from bench.routing.table import router_section, router_tables, testbed_section
from bench.truth.records import recorded_table
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError

ELSEWHERE = {
    "curves": "`python -m bench.curves --from FILE` fits and shows them.",
    **{
        name: f"`python -m bench.experiments.{name} --from FILE` shows them."
        for name in ("fig1", "fig2", "fig3", "fig4")
    },
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.report", description=__doc__.split("\n\n")[0])
    cli.add_argument("files", nargs="+", type=Path, metavar="FILE")
    cli.add_argument("--run", metavar="ID", help="the run to show (default: the newest of each benchmark)")
    cli.add_argument("--figure", type=Path, metavar="FILE.png", help="draw tok/s (needs matplotlib)")
    cli.add_argument("--update", type=Path, metavar="FILE.md", help="replace the tables between its markers")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    records = newest(list(read(options.files)), options.run)
    if options.figure:
        from bench.figure import draw_decode

        draw_decode(records, options.figure)
    if options.update:
        update(options.update, records)
    else:
        print(everything(records))
    return 0


def newest(records: Sequence[Record], run: str | None) -> list[Record]:
    """Of each benchmark the records of `run`, or of the newest run that has any.

    Raises `UsageError` where nothing is left.
    """
    if run is not None:
        chosen = [record for record in records if record.stamp.run == run]
        if not chosen:
            known = ", ".join(dict.fromkeys(record.stamp.run for record in records)) or "no run at all"
            raise UsageError(f"there is no run {run!r}; the files hold {known}")
        return chosen
    latest = {_subject(record): record.stamp.run for record in sorted(records, key=lambda r: r.stamp.utc)}
    chosen = [record for record in records if record.stamp.run == latest[_subject(record)]]
    if not chosen:
        raise UsageError("the files hold no records")
    return chosen


def _subject(record: Record) -> tuple[str, ...]:
    """What runs of are newer or older: a benchmark; but of kernels that were compiled each by itself."""
    return (record.benchmark, *((record.arm.name, record.arm.note) if record.benchmark == "aot" else ()))


def everything(records: Sequence[Record]) -> str:
    """All tables that the records have something for."""
    parts = []
    if any(record.benchmark == "decode" for record in records):
        parts += [tables.decode_tables(records), tables.target_table(records), tables.alone_table(records)]
    parts += [_kernels(records), fidelity_table(records), tables.bandwidth_table(records)]
    parts += [everything_gpu(records), aot_tables(records)]
    parts += [attribution_tables(records), recorded_table(records), router_tables(records)]
    parts += elsewhere(records)
    stamps = {record.stamp.run: record.stamp for record in records}
    random = {record.stamp.run for record in records if record.case.shape_only}
    origins = [tables.origin(stamp, run in random) for run, stamp in stamps.items()]
    return "\n\n".join([*(part for part in parts if part), *origins])


def elsewhere(records: Sequence[Record]) -> list[str]:
    """Of benchmarks whose tables need more than a run's own records: how to have them."""
    found = Counter(record.benchmark for record in records)
    return [f"{found[name]} records of {name}: {where}" for name, where in ELSEWHERE.items() if found[name]]


def _kernels(records: Sequence[Record]) -> str:
    """The stages, and the whole steps where joules were asked for."""
    return "\n\n".join(filter(None, (tables.stage_table(records), tables.step_table(records))))


def summary(records: Sequence[Record]) -> str:
    """A document's part: one row and the shortest context, what must hold, and where it is from."""
    decoded = [r for r in records if r.benchmark in ("decode", "memory")]
    if not any(r.benchmark == "decode" for r in decoded):
        return "Not measured.\n"
    shortest = min((r.case.context for r in decoded if r.case.phase == "decode"), default=0)
    kept = [
        r
        for r in decoded
        if r.benchmark == "memory"
        or r.case.phase == "prefill"
        or (r.case.rows, r.case.context) == (1, shortest)
    ]
    first = next(r for r in decoded if r.benchmark == "decode")
    where = tables.origin(first.stamp, first.case.shape_only)
    parts = [f"{first.case.model}: {where}", tables.decode_tables(kept), tables.target_table(decoded)]
    return "\n\n".join(parts) + "\n"


def fidelity(records: Sequence[Record]) -> str:
    """A document's part: what was decoded token by token, and where it is from."""
    found = [r for r in records if r.benchmark == "fidelity" and r.case.phase == "decode"]
    if not found:
        return "Not measured.\n"
    return f"{tables.origin(found[0].stamp, found[0].case.shape_only)}\n\n{fidelity_table(found)}\n"


SECTIONS = {
    "decode": summary,
    "fidelity": fidelity,
    "gpu": gpu_section,
    "aot": aot_section,
    "attribution": attribution_section,
    "router": router_section,
    "testbed": testbed_section,
    "kernels": lambda records: _kernels(records) or "Not measured.\n",
}


def update(path: Path, records: Sequence[Record]) -> None:
    """Replace the tables between the markers of a file. Raises `UsageError` where there are none."""
    fill(path, {name: partial(made, records) for name, made in SECTIONS.items()})


if __name__ == "__main__":
    leave(main())
