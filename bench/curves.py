"""What a request costs on a model and device, as a function of its size: fits its operating curve.

    python -m bench.curves --model DIR --minutes 10 --out FILE.jsonl     runs requests, then fits
    python -m bench.curves --from FILE.jsonl                             fits what was run

The curve goes to the user's cache directory, where the engine finds it for budgets and policies. Nothing else
should run on the device meanwhile. Progress goes to stderr; an interrupted run leaves its requests in --out.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import monotonic

import numpy as np

from bench.arguments import counts
from bench.curve_power import power_of
from bench.curve_records import BENCHMARK, curve_of, record, table
from bench.curve_requests import EngineRequests, Sampler, Size, Taken, sizes
from bench.record import Record, append, read
from bench.report import newest
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.energy.curve import OperatingCurve
from engine.energy.curve_json import to_json
from engine.energy.curve_store import file_name, load_curve, save_curve, user_curves
from engine.energy.power_model import PowerModel
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError

ROWS = (1, 2, 4, 8)
RUN_ONLY = (
    *("model", "random_weights", "backend", "device", "dtype", "quantize", "energy_source"),
    *("minutes", "rows", "seed", "out"),
)
_WARM_UPS = 4  # sizes, run and not recorded
_LONGEST_SHARE = 1 / 60  # of the time, for one request
_TELL_S = 5.0
_FILLER = Size(8, 8, 1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.curves", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    ran = cli.add_argument_group("what to run")
    ran.add_argument("--model", metavar="DIR|HF-ID|preset:NAME", help="default: the bundled model")
    ran.add_argument("--random-weights", action="store_true", default=None, help="what presets need")
    ran.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"))
    ran.add_argument("--device", metavar="N", help="CUDA device, or cpu")
    ran.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"))
    ran.add_argument("--quantize", choices=("none", "int8", "int4"))
    ran.add_argument("--energy-source", metavar="SOURCE", help="default: auto")
    ran.add_argument("--minutes", type=float, metavar="T", help="of running requests (default 10)")
    ran.add_argument("--rows", type=counts, metavar="N,N", help="rows in a batch (default 1,2,4,8)")
    ran.add_argument("--seed", type=int, metavar="N", help="of sizes and prompts (default 0)")
    ran.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add every request to this file")
    cli.add_argument("--from", dest="source", type=Path, metavar="FILE.jsonl", help="fit its newest run")
    cli.add_argument("--save", type=Path, metavar="FILE.json", help="keep the curve here, not in the cache")
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    cli.add_argument("--json", action="store_true", help="the curve on stdout, and nothing else")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    _check(options)
    if options.source:
        records = newest([r for r in read([options.source]) if r.benchmark == BENCHMARK], None)
        power, remark = None, "no power model: the records of a run do not hold the meter's readings"
    else:
        records, power, remark = run(options, arguments)
    curve, samples = curve_of(records, power)
    curve, replaced = with_kept(curve, options.save or user_curves() / file_name(curve.fits))
    path = save_curve(curve, options.save)
    if options.plot:
        from bench.curve_figure import draw_curve

        draw_curve(curve, samples, options.plot)
    for line in filter(None, (replaced, remark if curve.power is None else "")):
        print(line, file=sys.stderr)
    print(json.dumps(to_json(curve), allow_nan=False) if options.json else table(curve), flush=True)
    print(f"kept in {path}", file=sys.stderr)
    return 0


def with_kept(curve: OperatingCurve, path: Path) -> tuple[OperatingCurve, str]:
    """`curve` with what the curve at `path`, which it is to replace, holds beside a fit; and a remark.

    Accuracy and stopping rule stay where both are curves of the same, powers where both are fits of the same
    run: its records alone do not tell them again.
    """
    if not path.is_file():
        return curve, ""
    try:
        before = load_curve(path)
    except TokenjouleError as error:
        return curve, f"replaced: {error}"
    if before.fits != curve.fits:
        return curve, f"replaced: the curve of another model, device or source in {path}"
    if curve.power is None and before.provenance == curve.provenance:
        curve = replace(curve, power=before.power)
    remark = "kept the stopping rule, whose joules are those of the curve before" if before.stopping else ""
    return replace(curve, accuracy=before.accuracy, stopping=before.stopping), remark


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything has run."""
    given = [name for name in RUN_ONLY if getattr(options, name) is not None]
    if options.source and given:
        raise UsageError(
            f"--from runs nothing, so that --{given[0].replace('_', '-')} has no meaning with it"
        )
    if options.minutes is not None and not (math.isfinite(options.minutes) and options.minutes > 0):
        raise UsageError(f"--minutes must be positive, not {options.minutes}")
    if options.energy_source and options.energy_source.partition(":")[0] == "replay":
        raise UsageError("a replayed recording knows nothing of these requests: no curve can be fitted to it")
    if options.plot:
        from engine.plot import check_plot

        check_plot(str(options.plot))
    for path in filter(None, (options.out, options.save, options.plot)):
        if not path.parent.is_dir():  # better known before ten minutes of running than after
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Record], PowerModel | None, str]:
    """Run requests until the time is up: their records, the powers they tell, or why they tell none.

    Raises `TokenjouleError` with one line.
    """
    rng = np.random.default_rng(options.seed or 0)
    with Engine.load(
        options.model,
        backend=options.backend or "auto",
        device=options.device,
        dtype=options.dtype or "auto",
        quantize=options.quantize,
        random_weights=bool(options.random_weights),
        energy_source=options.energy_source or "auto",
        curve="none",  # the one that is about to be replaced, which may be damaged
    ) as engine:
        where = stamp("bench.curves", arguments, engine.model.backend.device)
        records, runs = [], []
        try:
            for taken in _requests(engine, rng, options):
                shape_only = engine.origin.card.shape_only
                records.append(record(engine.curve_key, where, taken, shape_only=shape_only))
                runs.append(taken.run)
                if options.out:
                    append(options.out, records[-1:])
        except KeyboardInterrupt:
            if options.out:
                print(f"{len(records)} requests are in {options.out}; --from fits them", file=sys.stderr)
            raise
        power, remark = power_of(runs, engine.poller.meter.sensor, fresh=engine.poller.fresh)
    return records, power, remark


def _requests(engine: Engine, rng: np.random.Generator, options: argparse.Namespace) -> Iterator[Taken]:
    """Requests until the time is up, the first ones not given."""
    total_s = 60 * (options.minutes or 10.0)
    requests = EngineRequests(engine, rng)
    sampler = Sampler(engine.poller, requests.prepare, _FILLER)
    drawn = sizes(
        engine.model.config.max_context,
        options.rows or ROWS,
        requests.fits(total_s * _LONGEST_SHARE),
        rng,
    )
    for size in islice(drawn, _WARM_UPS):
        requests.prepare(size)()
    began_s = told_s = monotonic()
    for number, size in enumerate(drawn):
        now_s = monotonic()
        if now_s - began_s >= total_s:
            return
        if now_s - told_s >= _TELL_S:
            told_s = now_s
            print(f"{number} requests, {now_s - began_s:.0f} of {total_s:.0f} s", file=sys.stderr, flush=True)
        yield sampler.take(size)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
