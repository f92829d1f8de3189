"""Attribution by the sensor's model against simulated truth, beside interpolation and what others do.

    python -m bench.attribution_study [--scenarios 1000] [--seed 0] [--jobs N] [--out F.jsonl] [--plot F.png]

Random devices, sensors and requests of known energy (`attribution.scenarios`) share no code with the fit.
Each scenario calibrates a power model, attributes single requests by it, and fits and attributes one request
repeated at random offsets. Corners, where the sensor is not what the model is told, come after. `--quick`
takes a few scenarios of each. Exit status 1 where a bound is missed. All joules are simulated, none measured.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.attribution.corners import CORNERS, corner_scenario
from bench.attribution.record import records
from bench.attribution.scenarios import well_specified
from bench.attribution.score import Outcome, score
from bench.attribution.table import attribution_tables, bounds
from bench.record import append
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.errors import UsageError

SCENARIOS, QUICK = 1000, 24
_CORNER_PART = 32  # a corner gets one scenario for so many well-specified ones, three at least


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario. `corner`: its place among the corners; None where the sensor is told as it is."""

    seed: int
    index: int
    corner: int | None = None


def run(task: Task) -> tuple[str | None, Outcome]:
    """(the corner's name, what came out)."""
    if task.corner is None:
        return None, score(well_specified(task.seed, task.index))
    corner = CORNERS[task.corner]
    return corner.name, score(corner_scenario(corner, task.seed, task.index))


def tasks(scenarios: int, seed: int) -> list[Task]:
    """Those of the cells, which take turns, then those of the corners."""
    each = max(scenarios // _CORNER_PART, 3)
    corners = [Task(seed, index, corner) for corner in range(len(CORNERS)) for index in range(each)]
    return [Task(seed, index) for index in range(scenarios)] + corners


def outcomes(planned: Sequence[Task], jobs: int) -> Iterator[tuple[str | None, Outcome]]:
    """What comes of each task, in order."""
    if jobs == 1:
        yield from map(run, planned)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(run, planned, chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for what is queued
            raise


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.attribution_study", description=__doc__.split("\n\n")[0])
    size = cli.add_mutually_exclusive_group()
    size.add_argument("--scenarios", type=int, metavar="N", help=f"well-specified ones (default {SCENARIOS})")
    cli.add_argument("--seed", type=int, default=0, metavar="N")
    cli.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    size.add_argument("--quick", action="store_true", help=f"{QUICK} scenarios")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(given, parser().parse_args(given)))


def _main(argv: Sequence[str], options: argparse.Namespace) -> int:
    wanted = QUICK if options.quick else SCENARIOS if options.scenarios is None else options.scenarios
    if wanted < 1 or options.jobs < 1 or options.seed < 0:
        raise UsageError("--scenarios and --jobs are at least 1, --seed at least 0")
    if options.plot:
        from engine.plot import check_plot

        check_plot(str(options.plot))
    planned = tasks(wanted, options.seed)
    found = []
    for done, outcome in enumerate(outcomes(planned, options.jobs), 1):
        found.append(outcome)
        if sys.stderr.isatty() or done % 50 == 0 or done == len(planned):
            print(f"\r{done} of {len(planned)} scenarios", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    made = records(found, stamp("bench.attribution_study", argv, torch.device("cpu")))
    if options.out:
        append(options.out, made)
    if options.plot:
        from bench.attribution.figure import draw_attribution

        draw_attribution(made, options.plot)
    print(attribution_tables(made), flush=True)
    return 0 if all(bound.holds is not False for bound in bounds(made)) else 1


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
