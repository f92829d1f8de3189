"""Table 1: accuracy and joules of a small model by technique, beside a large one, on MMLU's eight clusters.

    python -m bench.experiments.table1 --model org/small --large-model org/large --limit 50 --out table1.jsonl

Every question is asked with each technique before the next one, so that a drift of the machine is in all of
them; then the large model is asked directly. A run that was cut off goes on where it was; `--from` shows
again what files hold. Joules are of whole requests, gross. Models with a chat template are asked through it.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.arguments import names
from bench.benchmarks.clusters import UNASSIGNED, cluster_of, clusters
from bench.benchmarks.item import Item
from bench.benchmarks.load import load_items
from bench.benchmarks.mmlu import NAME, SPLITS
from bench.experiments import table1_picture
from bench.experiments.picture import wrapped
from bench.experiments.subject import Subject, describe, load
from bench.experiments.table1_record import Arm, Outcome, append, new_arm, read, resume
from bench.experiments.table1_table import columns, report
from bench.experiments.techniques import TECHNIQUES, Ask, Attempt, attempt
from bench.stamp import stamp
from engine.chat import ChatTemplate
from engine.cli import Parser, guarded, leave
from engine.engine import Engine
from engine.errors import MeterError, TokenjouleError, UsageError
from engine.plot import check_plot
from engine.stop import TokenBudget, load_policy
from engine.strategy.prompts import NEW_TOKENS, STEPS, Directive

LARGE = "large"
DEFAULT = ("direct", "vote", "cot", "cot+stop", LARGE)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    usual = Ask()
    cli = Parser(
        prog="bench.experiments.table1", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    cli.add_argument("--model", metavar="DIR|HF-ID|preset:NAME", help="the small model")
    cli.add_argument("--large-model", metavar="DIR|HF-ID|preset:NAME")
    cli.add_argument("--random-weights", action="store_true", help="for presets; figures are then shape only")
    cli.add_argument("--mmlu", type=Path, metavar="PATH", help="directory, zip or tar; default: the Hub")
    cli.add_argument("--split", choices=SPLITS, default="test")
    cli.add_argument("--limit", type=int, metavar="N", help="questions a cluster, drawn by --seed")
    cli.add_argument("--techniques", type=names, default=DEFAULT, metavar=",".join((*TECHNIQUES, LARGE)))
    cli.add_argument("--stop", action="append", default=[], metavar="FILE:CLASS", help="policy of cot+stop")
    cli.add_argument("--think-tokens", type=int, metavar="N", help="token budget of cot+stop")
    cli.add_argument("--samples", type=int, default=usual.samples, metavar="K", help="votes")
    cli.add_argument("--temperature", type=float, default=usual.temperature, metavar="T", help="of votes")
    cli.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help="written steps of cot; 0: no limit"
    )
    cli.add_argument("--max-new-tokens", type=int, default=NEW_TOKENS, metavar="N")
    cli.add_argument("--directive", type=Directive, choices=list(Directive), default=Directive.NONE)
    cli.add_argument("--chat", choices=("auto", "yes", "no"), default="auto", help="auto: with a template")
    cli.add_argument("--seed", type=int, default=usual.seed, metavar="N")
    cli.add_argument("--backend", default="auto", metavar="auto|gpu|cpu|torch")
    cli.add_argument("--device", metavar="N|cpu")
    cli.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    cli.add_argument("--quantize", metavar="none|int8|int4")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    cli.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="a line for each question; resumable")
    cli.add_argument("--plot", type=Path, metavar="FILE.png")
    cli.add_argument("--from", dest="files", type=Path, nargs="+", metavar="FILE.jsonl", help="run nothing")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    cli = parser()
    options = cli.parse_args(arguments)
    if options.plot:
        check_plot(str(options.plot))
    if options.files:
        for name, value in vars(options).items():
            if name not in ("files", "plot") and value != cli.get_default(name):
                raise UsageError(f"--from runs nothing, so --{name.replace('_', '-')} has no meaning with it")
        arms, outcomes = read(options.files)
    else:
        _check(options)
        arms, outcomes = run(options, arguments)
    return show(arms, outcomes, options.plot, options.out)


def show(arms: Sequence[Arm], outcomes: Sequence[Outcome], plot: Path | None, out: Path | None) -> int:
    """Tables, picture and the last line, from lines alone."""
    found, left_out = columns(arms, outcomes)
    table, told = report(found)
    origins = [_origin(column.arm) for column in found]
    worth = "; ".join(dict.fromkeys(_worth(column.arm) for column in found))
    refused = sum(o.error is not None for column in found for o in column.outcomes.values())
    if plot:
        below = wrapped(" ".join(dict.fromkeys(origins)), 200)
        table1_picture.draw(found, plot, worth, below)
    notes = [*left_out, *([f"{refused} questions could not be asked (they say why)"] if refused else [])]
    print(worth, table, "\n".join([*notes, *dict.fromkeys(origins)]), sep="\n\n", end="\n\n")
    last = {
        "schema": "tokenjoule.bench.table1/1",
        "measured": all(column.arm.measured for column in found),
        "shape_only": any(column.arm.shape_only for column in found),
        "refused": refused,
        "file": None if out is None else str(out),
        "techniques": told,
    }
    print(json.dumps(last))
    return 0


def run(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Arm], list[Outcome]]:
    """Ask what has not been asked with these settings; returns all lines, old and new."""
    arms, outcomes = resume(options.out) if options.out else ([], [])
    items = choose(load_items(NAME, options.mmlu, options.split), options.limit, options.seed)
    small = tuple(technique for technique in options.techniques if technique != LARGE)
    for model, techniques in ((options.model, small), (options.large_model, (LARGE,))):
        if techniques and (techniques != (LARGE,) or LARGE in options.techniques):
            for line in _ask_model(model, techniques, items, options, arguments, arms, outcomes):
                if options.out:
                    append(options.out, [line])
                (arms if isinstance(line, Arm) else outcomes).append(line)  # type: ignore[arg-type]
    return arms, outcomes


def choose(items: Sequence[Item], limit: int | None, seed: int) -> list[tuple[str, Item]]:
    """(cluster, question), cluster by cluster; of each at most `limit`, a larger one holding the smaller."""
    found: list[tuple[str, Item]] = []
    for name in (*clusters(), UNASSIGNED):
        here = [item for item in items if (cluster_of(item.category) or UNASSIGNED) == name]
        random.Random(f"{seed}/{name}").shuffle(here)
        found += [(name, item) for item in here[:limit]]
    return found


def _ask_model(
    model: str,
    techniques: Sequence[str],
    items: Sequence[tuple[str, Item]],
    options: argparse.Namespace,
    arguments: Sequence[str],
    arms: Sequence[Arm],
    outcomes: Sequence[Outcome],
) -> Iterator[Arm | Outcome]:
    """The lines of one model's questions that are not there yet, as they come."""
    subject = describe(model, options)
    ask = _ask(options)
    where = stamp("bench.experiments.table1", arguments, subject.device)
    with load(subject, options) as engine:
        ask = _through_template(engine, ask, options.chat)
        meter = engine.poller.meter
        if not meter.measured:
            _say(f"energy: NOT MEASURED, source {meter.name}. {meter.note}")
        new: dict[str, Arm] = {}
        done: dict[str, set[str]] = {}
        for technique in techniques:
            arm = new_arm(
                technique,
                subject.id,
                shape_only=subject.shape_only,
                device=where.device,
                energy_source=meter.name,
                measured=meter.measured,
                settings=_settings(technique, subject, ask, options),
                stamp=where,
            )
            same = {known.id for known in arms if known.sameness == arm.sameness}
            new[technique] = arm
            done[technique] = {o.id for o in outcomes if o.arm in same and o.error is None}
        written: set[str] = set()
        for place, (cluster, item) in enumerate(items, 1):
            for technique in techniques:
                if item.id in done[technique]:
                    continue
                if technique not in written:
                    written.add(technique)
                    yield new[technique]
                outcome = _outcome(engine, new[technique], technique, cluster, item, ask)
                _tell(f"{subject.id} [{place} of {len(items)}] {item.id}, {technique}", outcome)
                yield outcome


def _outcome(engine: Engine, arm: Arm, technique: str, cluster: str, item: Item, ask: Ask) -> Outcome:
    """A line, whatever happens to the question; a failed meter ends the run."""
    made: Attempt | None = None
    error = None
    try:
        made = attempt(engine, item, "direct" if technique == LARGE else technique, ask)
    except (UsageError, MeterError):
        raise
    except TokenjouleError as problem:
        error = str(problem)
    return Outcome(
        arm=arm.id,
        id=item.id,
        category=item.category,
        cluster=cluster,
        reference=item.answer or "",
        answer=made.grade.answer if made else None,
        correct=made.grade.correct if made else None,
        unparsed=made.grade.unparsed if made else False,
        censored=made.grade.censored if made else False,
        forced=made.forced if made else False,
        stop=made.stop if made else "error",
        prompt_tokens=made.prompt_tokens if made else 0,
        new_tokens=made.new_tokens if made else 0,
        energy_j=made.energy_j if made else None,
        elapsed_s=made.elapsed_s if made else 0.0,
        votes=dict(made.votes) if made and made.votes is not None else None,
        mass=made.mass if made else None,
        error=error,
    )


def _settings(technique: str, subject: Subject, ask: Ask, options: argparse.Namespace) -> dict[str, object]:
    """Everything that changes the figures of this technique, and nothing else."""
    found: dict[str, object] = {
        "backend": subject.backend,
        "dtype": subject.dtype,
        "quantization": subject.quantization,
        "benchmark": f"{NAME} {options.split}",
        "chat": ask.chat,
    }
    if technique.startswith("vote"):
        found |= {"samples": ask.samples, "temperature": ask.temperature, "seed": ask.seed}
    if technique.startswith("cot"):
        found |= {"steps": ask.steps, "new_tokens": ask.new_tokens, "directive": str(ask.directive)}
    if technique == "cot+stop":
        found |= {"stop": options.stop, "think_tokens": options.think_tokens}
    return found


def _ask(options: argparse.Namespace) -> Ask:
    policies = [load_policy(reference) for reference in options.stop]
    if options.think_tokens is not None:
        policies.append(TokenBudget(options.think_tokens))
    return Ask(
        samples=options.samples,
        temperature=options.temperature,
        seed=options.seed,
        steps=options.steps,
        new_tokens=options.max_new_tokens,
        directive=options.directive,
        policies=policies,
    )


def _through_template(engine: Engine, ask: Ask, chat: str) -> Ask:
    """With the model's chat template where it has one, unless told otherwise."""
    has = False
    if chat == "auto" and engine.directory is not None:
        try:
            ChatTemplate.load(engine.directory)
            has = True
        except TokenjouleError:  # a base model, or one that was trained on bare questions
            pass
    return Ask(**{**vars(ask), "chat": chat == "yes" or has})


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything is loaded. Raises `UsageError`."""
    known = (*TECHNIQUES, LARGE)
    unknown = [technique for technique in options.techniques if technique not in known]
    if unknown or not options.techniques:
        raise UsageError(f"unknown technique {', '.join(unknown)!r}; there are {', '.join(known)}")
    if set(options.techniques) != {LARGE} and options.model is None:
        raise UsageError("name the small model with --model, or files with --from")
    if LARGE in options.techniques and options.large_model is None:
        raise UsageError("the technique large needs --large-model; leave it out with --techniques")
    if "cot+stop" in options.techniques and not options.stop and options.think_tokens is None:
        raise UsageError("cot+stop needs a policy: --stop, or --think-tokens")
    for name in ("limit", "samples", "max_new_tokens", "think_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if options.steps < 0 or not options.temperature > 0:
        raise UsageError("--steps must not be negative, and --temperature must be more than 0")


def _worth(arm: Arm) -> str:
    kind = "measured by" if arm.measured else "NOT MEASURED:"
    weights = "; shape only: random weights, so accuracy means nothing" if arm.shape_only else ""
    return f"{arm.model}: joules {kind} {arm.energy_source}{weights}"


def _origin(arm: Arm) -> str:
    commit = (arm.stamp["commit"] or "unknown")[:9] + (" with changes" if arm.stamp["dirty"] else "")
    settings = ", ".join(f"{name} {value}" for name, value in arm.settings.items())
    where = f"{arm.device}, {arm.stamp['cores']} cores, {arm.stamp['utc'][:10]}"
    return f"{arm.technique}: {arm.model} on {where}, commit {commit}; {settings}."


def _tell(where: str, outcome: Outcome) -> None:
    joules = "joules unknown" if outcome.energy_j is None else f"{outcome.energy_j:.3g} J"
    worth = {True: "right", False: "wrong", None: "censored"}[outcome.correct]
    _say(f"{where}: {outcome.error or f'{outcome.answer} {worth}, {outcome.new_tokens} tokens, {joules}'}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
