"""Whether the joules of one request are true: each beside the same work repeated for seconds on end.

    python -m bench.energy_truth --model preset:llama-3.2-1b --random-weights --out truth.jsonl

Twenty sizes, prefill and decode of each: 40 figures with 95 % intervals, of which 4 may miss what repetition
tells. Then parts against wholes, n against 2n tokens, idle time booked as work, shuffled labels. None of this
sees the sensor's gain. Needs a sensor whose lag and window are known (`bench.sensor`), and a device that does
nothing else. Exit status 1 where something does not hold.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.curve_power import why_none
from bench.curve_requests import EngineRequests
from bench.record import Arm, Case, Record, Stamp, append
from bench.stamp import stamp
from bench.tables import origin
from bench.truth.findings import Comparison, Study
from bench.truth.plan import NEW_TOKENS, PROMPTS, Plan, fitted_to
from bench.truth.records import BENCHMARK, Recorder, problems, table
from bench.truth.study import Runner, Say
from engine.cli import Parser, guarded, leave
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError

_PROMPT_SHARE = 0.02  # of the time, for one request at the longest


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.energy_truth", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("--model", metavar="DIR|HF-ID|preset:NAME", help="default: the bundled model")
    cli.add_argument("--random-weights", action="store_true", help="what presets need")
    cli.add_argument("--backend", default="auto", choices=("auto", "gpu", "cpu", "torch"))
    cli.add_argument("--device", metavar="N", help="CUDA device, or cpu")
    cli.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    cli.add_argument("--quantize", choices=("none", "int8", "int4"))
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--minutes", type=float, default=5.0, metavar="T", help="of everything (default 5)")
    cli.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each repeat (default 5)")
    cli.add_argument("--seed", type=int, default=0, metavar="N", help="of order, idle times and prompts")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    for name in ("minutes", "seconds"):
        if not (math.isfinite(getattr(options, name)) and getattr(options, name) > 0):
            raise UsageError(f"--{name} must be positive, not {getattr(options, name):g}")
    if options.energy_source.partition(":")[0] == "replay":
        raise UsageError("a replayed recording knows nothing of these requests")
    if options.out is not None and not options.out.parent.is_dir():  # better known before than after
        raise UsageError(f"cannot write {options.out}: there is no folder {options.out.parent}")
    plan = Plan(PROMPTS, NEW_TOKENS, truth_s=options.seconds, total_s=60 * options.minutes)
    with Engine.load(
        options.model,
        backend=options.backend,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        random_weights=options.random_weights,
        energy_source=options.energy_source,
    ) as engine:
        require_told(engine)
        where = stamp("bench.energy_truth", arguments, engine.model.backend.device)
        recorder = recorder_of(engine, where, BENCHMARK)

        def keep(*found: Record) -> None:
            if options.out is not None:
                append(options.out, found)

        study = run_study(engine, plan, options.seed, _say, lambda found: keep(recorder.comparison(found)))
        keep(*recorder.checks(study))
    against = problems(study)
    meter = engine.poller.meter
    worth = "measured" if meter.measured else f"NOT MEASURED: {meter.note}"
    print(f"joules by {meter.name}, {worth}", table(study), sep="\n\n")
    print(origin(where, recorder.case.shape_only), end="\n\n")
    print("\n".join(f"DOES NOT HOLD: {line}" for line in against) or "all holds", flush=True)
    return 1 if against else 0


def require_told(engine: Engine) -> None:
    """Raises `TokenjouleError` for a source whose readings cannot be attributed by a model."""
    poller = engine.poller
    reason = why_none(poller.meter.sensor, fresh=poller.fresh)
    if reason:
        raise TokenjouleError(f"nothing to compare with {poller.meter.name!r}: {reason}")


def run_study(engine: Engine, plan: Plan, seed: int, say: Say, keep: Callable[[Comparison], object]) -> Study:
    """The study on an engine, by its curve's powers where it has a curve with them; `keep` as in `Runner`."""
    rng = np.random.default_rng(seed)
    requests = EngineRequests(engine, rng)
    plan = fitted_to(plan, engine.model.config.max_context)
    fits = requests.fits(plan.total_s * _PROMPT_SHARE)
    prompts = tuple(
        prompt
        for prompt in plan.prompts
        if all(fits(size) for size in plan.sizes if size.prompt_tokens == prompt)
    )
    if not prompts:
        raise TokenjouleError("no request of these sizes fits into the memory and the time that there are")
    if prompts != plan.prompts:
        say(f"left out, for memory or time: prompts of {sorted(set(plan.prompts) - set(prompts))} tokens")
    power = engine.curve.power if engine.curve else None
    say("powers from the operating curve" if power else "no operating curve with powers: fitting them first")
    runner = Runner(
        engine.poller, requests.prepare, replace(plan, prompts=prompts), rng, say, time.sleep, keep
    )
    return runner.run(power)


def recorder_of(engine: Engine, where: Stamp, benchmark: str) -> Recorder:
    """For a study on this engine."""
    card, key, meter = engine.origin.card, engine.curve_key, engine.poller.meter
    name, note = f"{key.backend} {key.quantization}", f"sensor: {meter.sensor.origin or 'the source itself'}"
    arm = Arm(name, "tokenjoule", key.backend, key.quantization, key.dtype, None, note)
    case = Case(card.id, card.shape_only, "request", 1, 1)
    return Recorder(where, arm, case, meter.name, meter.measured, benchmark)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main())
