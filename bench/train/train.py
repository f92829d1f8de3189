"""Trains a model of the test bed, and goes on where a run was interrupted.

    python -m bench.train.train S --out DIR --minutes 80
    python -m bench.train.train S --out DIR --resume
    python -m bench.train.train L --out DIR --minutes 70 --start engine/models/testbed-s

DIR/latest is a complete model directory throughout. Deterministic for a given seed, number of steps and
number of workers, on one machine, interrupted or not. With --minutes the number of steps is measured on the
spot; the record says it, and --steps repeats it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.train.recipe import SHAPES, Recipe, recipe
from bench.train.run import CHECKPOINT, WEIGHTS, Run, weights_digest

CALIBRATION_BATCHES = 20
CHECKPOINT_S = 180.0
REPORT_STEPS = 100


def steps_in(minutes: float, plan: Recipe) -> int:
    """How many optimizer steps fit, timed on full-length batches of a throw-away model."""
    run = Run.begin(plan)
    run.step = plan.steps  # past the curriculum
    start = 0.0
    for index in range(CALIBRATION_BATCHES + 2):
        if index == 2:  # the first passes pay for allocation
            start = time.monotonic()
        run.advance()
    return max(1, int(minutes * 60 / ((time.monotonic() - start) / CALIBRATION_BATCHES)))


def train(run: Run, directory: Path, report: Callable[[str], None]) -> None:
    """Takes `run` to its last step; keeps and publishes it every three minutes and at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic() - run.elapsed_s
    kept = time.monotonic()
    while run.step < run.recipe.steps:
        run.advance()
        run.elapsed_s = time.monotonic() - begun
        done = run.step == run.recipe.steps
        if done or run.step % REPORT_STEPS == 0:
            report(
                f"step {run.step:6d}/{run.recipe.steps} longest {run.recipe.longest_at(run.step - 1)}"
                f" loss {run.loss_nats:.4f} nats tokens {run.tokens / 1e6:.2f} M"
                f" elapsed {run.elapsed_s:.0f} s"
            )
        if done or time.monotonic() - kept > CHECKPOINT_S:
            run.save(directory)
            run.publish(directory)
            kept = time.monotonic()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(prog="bench.train.train", description=__doc__.splitlines()[0])
    cli.add_argument("model", choices=list(SHAPES), help="S, or L of twice the depth")
    cli.add_argument("--out", type=Path, required=True, help="directory of the run; DIR/latest is the model")
    length = cli.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to fill with training steps (80 if not told)")
    length.add_argument("--steps", type=int, help="exact number of optimizer steps (repeats a run)")
    length.add_argument("--resume", action="store_true", help="go on with the run in --out, with its recipe")
    cli.add_argument(
        "--start",
        type=Path,
        metavar="MODEL",
        help="directory whose weights a run starts from; of S for L too",
    )
    cli.add_argument("--learning-rate", type=float, help="the highest, if not the recipe's")
    cli.add_argument("--seed", type=int, help="0 if not told")
    cli.add_argument("--workers", type=int, help="processes that share each batch (1 if not told)")
    cli.add_argument("--device", default="cpu", help="cpu or cuda")
    return cli


def main(argv: list[str] | None = None) -> int:
    """Trains and writes model directories. Returns 0, 1 where there is nothing to resume; 2 on bad usage."""
    cli = parser()
    options = cli.parse_args(argv)
    torch.set_num_threads(1)
    told = (options.seed, options.workers, options.start, options.learning_rate)
    if options.resume and any(given is not None for given in told):
        cli.error("--resume keeps the seed, workers, start and learning rate that the run began with")
    if options.start is not None and not (options.start / WEIGHTS).is_file():
        cli.error(f"{options.start} has no {WEIGHTS}: not a model to start from")

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if options.out.exists() and not options.out.is_dir():
        cli.error(f"{options.out} is no directory")
    if options.resume:
        if not (options.out / CHECKPOINT).is_file():
            print(f"{options.out} has no {CHECKPOINT}: nothing to resume", file=sys.stderr)
            return 1
        try:
            run = Run.resume(options.out, options.device)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        if run.recipe.name != options.model:
            cli.error(f"the run in {options.out} is of model {run.recipe.name}")
    else:
        if (options.out / CHECKPOINT).exists():
            cli.error(f"{options.out} holds a run already: --resume it, or name another directory")
        fields = {"seed": options.seed or 0, "workers": options.workers or 1, "device": options.device}
        if options.learning_rate is not None:
            fields["learning_rate"] = options.learning_rate
        fields["start"] = weights_digest(options.start) if options.start else None
        minutes = 80.0 if options.minutes is None else options.minutes
        try:
            plan = recipe(options.model, 1 if options.steps is None else options.steps, **fields)
            if options.steps is None:
                if minutes <= 0:
                    raise ValueError(f"--minutes must be above 0, found {minutes:g}")
                plan = recipe(options.model, steps_in(minutes, plan), **fields)
            run = Run.begin(plan, options.start)
        except ValueError as error:
            cli.error(str(error))
    train(run, options.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
