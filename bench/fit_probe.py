"""A probe on the model's own states for `--stop hidden:file=FILE.npz`: fitted, and tried on held-out
questions.

    python -m bench.fit_probe --model DIR --questions 200 --log LOG.jsonl --out FILE.npz   runs, then fits
    python -m bench.fit_probe --from LOG.jsonl --out FILE.npz                              fits what was run

The log is the checkpoint log of `bench.calibrate`, with states; what it holds is not run again. Needs
scikit-learn, and an operating curve of the model, by which the log's joules are told (`bench.curves`).
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.arguments import add_engine, refuse_beside_from
from bench.calibrate import collect, curve_for, load_engine
from bench.calibration import log
from bench.calibration.hidden_fit import Fitted, fit_probe
from bench.calibration.hidden_report import HeldOut, held_out, held_out_table
from bench.calibration.log import Trace
from bench.calibration.priced import Pricer
from bench.calibration.states import layers_of
from bench.calibration.tasks import questions, refuse_test
from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError
from engine.file_check import refuse_same, writable
from engine.stop.rule import POINTS

SCHEMA = "tokenjoule.bench.fit_probe/1"
SPREAD = 4  # layers, unless named
LOSE = 1.0  # points


def layers(text: str) -> tuple[int, ...]:
    """From "1,4"; in rising order, each at least 0."""
    found = tuple(sorted({int(part) for part in text.split(",")}))
    if found[0] < 0:
        raise argparse.ArgumentTypeError(f"layers are at least 0, not {found[0]}")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.fit_probe", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    ran = cli.add_argument_group("what to run")
    add_engine(ran)
    ran.add_argument("--tasks", metavar="testbed[:CATEGORY,…]", help="default: all of the test bed")
    ran.add_argument("--split", metavar="NAME", help="default: calibration")
    ran.add_argument("--questions", type=int, metavar="N", help="of each category (default 200)")
    ran.add_argument("--curve", type=Path, metavar="FILE.json", help="operating curve (default: the cache's)")
    ran.add_argument("--log", type=Path, metavar="LOG.jsonl", help="the checkpoint log; resumable")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="LOG.jsonl", help="run nothing")
    cli.add_argument(
        "--layers",
        type=layers,
        metavar="L,…",
        help=f"to choose among (default: {SPREAD} evenly spread, or what the logs hold)",
    )
    cli.add_argument(
        "--lose", type=float, default=LOSE, metavar="POINTS", help="of accuracy at most (default %(default)g)"
    )
    cli.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="the probe")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    _check(options)
    traces = log.read(options.files) if options.files else run(options)
    held = layers_of(traces)
    if not held:
        raise TokenjouleError("the log holds no states: bench.fit_probe makes one with --log")
    missing = sorted(set(options.layers or ()) - set(held))
    if missing:
        raise UsageError(f"the log has states behind layers {_listed(held)}, not behind {_listed(missing)}")
    fitted = fit_probe(traces, options.layers or held, lose=options.lose)
    found = held_out(fitted)
    fitted.probe.save(options.out)
    each = POINTS / fitted.choosing
    if each > options.lose:
        _say(
            f"{fitted.choosing} questions set the threshold, each worth {each:.1f} points: "
            f"too few to tell a loss of {options.lose:g}; see the held-out ones, and ask more"
        )
    print(_head(traces, fitted), held_out_table(found), sep="\n\n", end="\n\n")
    print(json.dumps(summary(fitted, found, options.out), allow_nan=False), flush=True)
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything has run."""
    if options.files:
        refuse_beside_from(parser(), options, kept=("out", "layers", "lose"))
    elif options.log is None:
        raise UsageError("name the checkpoint log with --log, or one that was made before with --from")
    if options.questions is not None and options.questions < 1:
        raise UsageError(f"--questions must be at least 1, not {options.questions}")
    if not (math.isfinite(options.lose) and options.lose >= 0):
        raise UsageError(f"--lose must be a number of at least 0, not {options.lose}")
    if options.out.suffix != ".npz":
        raise UsageError(f"--out must end in .npz, as the probe is read, not {options.out}")
    refuse_same({f"--{name}": getattr(options, name) for name in ("log", "out", "curve")})
    refuse_test({options.split or "calibration"})
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise TokenjouleError("fitting needs scikit-learn: pip install 'tokenjoule[router]'") from error
    writable(options.out, options.log)


def run(options: argparse.Namespace) -> list[Trace]:
    """Ask what the log does not hold yet: all its runs. Raises `TokenjouleError` where there is no curve."""
    split = options.split or "calibration"
    asked = questions(options.tasks or "testbed", split, options.questions or 200)
    with load_engine(options) as engine:
        wanted = options.layers or spread(engine.model.config.n_layers)
        collect(engine, Pricer(curve_for(engine)), asked, split, options.log, wanted)
    return log.read([options.log])


def spread(count: int) -> tuple[int, ...]:
    """Some of `count` layers: the last one, and others evenly below it."""
    return tuple(sorted({max(round(count * part / SPREAD), 1) - 1 for part in range(1, SPREAD + 1)}))


def _head(traces: Sequence[Trace], fitted: Fitted) -> str:
    end, probe = traces[0].end, fitted.probe
    losses = ", ".join(f"{layer}: {loss:.4f}" for layer, loss in fitted.losses.items())
    return (
        f"{end.model} {end.quantization}; {len(traces)} runs, {len(fitted.held_out)} of them held out; "
        f"joules: {end.energy_source}\n"
        f"behind layer {probe.layer} of (log loss) {losses}; C = {fitted.strength:g}; "
        f"threshold {probe.threshold:g}, set on {fitted.choosing} runs"
    )


def summary(fitted: Fitted, found: Sequence[HeldOut], kept: Path) -> dict[str, object]:
    """The last line of stdout."""
    return {
        "schema": SCHEMA,
        "model": fitted.held_out[0].end.model,
        "layer": fitted.probe.layer,
        "threshold": fitted.probe.threshold,
        "strength": fitted.strength,
        "losses": fitted.losses,
        "choosing": fitted.choosing,
        "kept": str(kept),
        "held_out": {each.category: asdict(each) for each in found},
    }


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
