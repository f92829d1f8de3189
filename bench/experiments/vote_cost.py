"""What voting costs: 16 samples beside one, 16 draws among choices beside one direct answer, interleaved.

    python -m bench.experiments.vote_cost --rounds 30 --out vote-cost.jsonl
    python -m bench.experiments.vote_cost --from vote-cost.jsonl

Every round runs every arm once on one question with one seed, in shuffled order; seconds are those of the
whole call, joules those of the request's own account. Exits with 1 where a ratio that must hold does not.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.arguments import names
from bench.record import Arm, Case, Metric, Record, Value, append, read
from bench.stamp import stamp
from bench.timing import Ratio, Timed, interleave, ratio, settle
from engine.cli import Parser, guarded, leave
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.strategy import Cot, Direct, Outcome, Strategy, Vote, run
from engine.strategy.vote import Until

BENCHMARK = "vote_cost"
PROMPT = "47+35-18+6-3+12-9+4="
DIGITS = tuple("0123456789")


@dataclass(frozen=True, slots=True)
class Requirement:
    """`arm` costs at most `most` times `reference`, in seconds and in joules."""

    arm: str
    reference: str
    most: float | None = None


def arms(samples: int, choices: Sequence[str]) -> dict[str, Strategy]:
    """What is compared, by name."""
    every = Until.ALL
    return {
        "direct choice": Direct(tuple(choices)),
        "vote among choices": Vote(samples, tuple(choices)),
        "one sample": Cot(),
        "vote": Vote(samples, until=every),
        "vote until decided": Vote(samples),
        "vote, a prefill each": Vote(samples, until=every, independent=True),
    }


REQUIRED = (
    Requirement("vote among choices", "direct choice", 1.2),
    Requirement("vote", "one sample", 4.0),
    Requirement("vote until decided", "one sample"),
    Requirement("vote, a prefill each", "one sample"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    cli = Parser(prog=f"python -m bench.experiments.{BENCHMARK}", description=__doc__.split("\n\n")[0])
    cli.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME", help="default: bundled:chain")
    cli.add_argument("--random-weights", action="store_true")
    cli.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"), default="cpu")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--prompt", default=PROMPT)
    cli.add_argument("--choices", type=names, default=DIGITS, metavar="A,B,…")
    cli.add_argument("--samples", type=int, default=16, metavar="K")
    cli.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    cli.add_argument("--temperature", type=float, default=1.0, metavar="T")
    cli.add_argument("--rounds", type=int, default=20, metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")
    cli.add_argument("--from", dest="source", type=Path, metavar="FILE.jsonl", help="show what was run")
    options = cli.parse_args(argv)
    if options.source is not None:
        records = [record for record in read([options.source]) if record.benchmark == BENCHMARK]
        if not records:
            raise TokenjouleError(f"{options.source} holds no records of {BENCHMARK}")
        return show(records)
    if options.rounds < 3:
        raise UsageError(f"a ratio's interval needs 3 rounds, not {options.rounds}")
    with Engine.load(
        options.model,
        random_weights=options.random_weights,
        backend=options.backend,
        energy_source=options.energy_source,
    ) as engine:
        records = measure(engine, options, argv)
    if options.out is not None:
        append(options.out, records)
    return show(records)


def measure(engine: Engine, options: Any, argv: Sequence[str]) -> list[Record]:
    """One record an arm, of as many samples as there were rounds."""
    outcomes: dict[str, list[Outcome]] = {}
    compared = arms(options.samples, options.choices)

    def answering(name: str, strategy: Strategy) -> Callable[[], None]:
        done = outcomes.setdefault(name, [])

        def answer() -> None:
            found = run(
                engine,
                options.prompt,
                strategy,
                temperature=options.temperature,
                max_new_tokens=options.max_new_tokens,
                seed=len(done),  # the same in every arm of a round, as each runs once in it
            )
            if found.result.error is not None:
                raise TokenjouleError(f"{name}: {found.result.error}")
            done.append(found)

        return answer

    timed = [Timed(name, answering(name, strategy), setup=settle) for name, strategy in compared.items()]
    seconds = interleave(timed, rounds=options.rounds, warmups=1)
    where = stamp(f"bench.experiments.{BENCHMARK}", argv, engine.model.backend.device)
    kept = {name: found[1:] for name, found in outcomes.items()}  # without the warm-up
    energy = {name: [outcome.result.energy.window_j for outcome in found] for name, found in kept.items()}
    required = {one.arm: one for one in REQUIRED}
    records = []
    for name, found in kept.items():
        origin, energies = engine.origin, [j for j in energy[name] if j is not None]
        metrics = {
            "run_s": Metric("s", tuple(seconds[name])),
            "energy_j": Metric("J", tuple(energies), None if energies else "the meter told nothing"),
            "new_tokens": Metric("1", tuple(float(outcome.new_tokens) for outcome in found)),
        }
        derived = {}
        if name in required:
            reference = required[name].reference
            source = f"{reference}; energy source {found[0].result.energy.source}"
            derived["times_s"] = _value(ratio(seconds[name], seconds[reference]), reference)
            if len(energies) == len(found) == len(energy[reference]):
                paid = [j for j in energy[reference] if j is not None]
                derived["times_j"] = _value(
                    ratio(energies, paid), source, measured=found[0].result.energy.measured
                )
        arm = Arm(name, "tokenjoule", origin.backend, origin.card.quantization, origin.card.dtype)
        rows = len(found[0].samples or (found[0].result,))
        case = Case(
            model=origin.card.id,
            shape_only=origin.card.shape_only,
            phase="request",
            rows=rows,
            context=found[0].result.prompt_tokens,
            new_tokens=max(len(s.token_ids) for s in found[0].samples or (found[0].result,)),
        )
        records.append(Record(BENCHMARK, where, arm, case, f"{BENCHMARK} {where.run}", metrics, derived))
    return records


def show(records: Sequence[Record]) -> int:
    """A line an arm on stdout; 1 where a required ratio does not hold."""
    most = {one.arm: one for one in REQUIRED}
    failed = False
    for record in records:
        name, joules = record.arm.name, record.metrics["energy_j"].median
        tokens = median(record.metrics["new_tokens"].samples)
        line = f"{name}: {(record.metrics['run_s'].median or 0) * 1e3:.2f} ms, {tokens:.0f} new tokens"
        line += ", no joules" if joules is None else f", {joules * 1e3:.3g} mJ"
        for key, unit in (("times_s", "of its seconds"), ("times_j", "of its joules")):
            found = record.derived.get(key)
            if found is None or found.value is None:
                continue
            line += f"; {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) {unit}"
            limit = most[name].most if name in most else None
            failed |= limit is not None and found.value > limit
        if name in most:
            limit = most[name].most
            line += f", beside {most[name].reference}" + (f", required at most {limit:g}" if limit else "")
        print(line)
    measured = {value.measured for record in records for value in record.derived.values()}
    if measured & {False}:
        print("joules are NOT MEASURED: the energy source is an estimate or a simulation")
    return 1 if failed else 0


def _value(found: Ratio, source: str, *, measured: bool | None = None) -> Value:
    return Value("1", found.medians, found.low, found.high, source, measured)


if __name__ == "__main__":
    leave(main())
