"""Asking Table 1's questions: which ones, by which techniques, and a line for each as it comes."""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.benchmarks.clusters import UNASSIGNED, cluster_of, clusters
from bench.benchmarks.item import Item
from bench.benchmarks.load import load_items
from bench.benchmarks.mmlu import NAME
from bench.experiments.subject import Subject, describe, load
from bench.experiments.table1_record import Arm, Outcome, append, new_arm, resume
from bench.experiments.techniques import Ask, Attempt, attempt
from bench.stamp import stamp
from engine.chat import ChatTemplate
from engine.engine import Engine
from engine.errors import MeterError, TokenjouleError, UsageError
from engine.steps import StopPolicy
from engine.stop import TokenBudget
from engine.stop.names import AUTO

LARGE = "large"  # the technique: `direct`, on the large model


def run(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Arm], list[Outcome]]:
    """Ask what has not been asked with these settings; returns all lines, old and new."""
    arms, outcomes = resume(options.out) if options.out else ([], [])
    items = choose(load_items(NAME, options.mmlu, options.split), options.limit, options.seed)
    small = tuple(technique for technique in options.techniques if technique != LARGE)
    for model, techniques in ((options.model, small), (options.large_model, (LARGE,))):
        asked = [technique for technique in techniques if technique in options.techniques]
        if asked:
            for line in _ask_model(model, asked, items, options, arguments, arms, outcomes):
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
                if options.require_measured and outcome.energy_j is None and outcome.error is None:
                    raise MeterError(f"{item.id}: the energy was not measured completely")
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
        named = options.stop or ([] if options.think_tokens is not None else [AUTO])
        found |= {"stop": named, "think_tokens": options.think_tokens}
    return found


def _ask(options: argparse.Namespace) -> Ask:
    policies: list[StopPolicy | str] = list(options.stop)
    if options.think_tokens is not None:
        policies.append(TokenBudget(options.think_tokens))
    return Ask(
        samples=options.samples,
        temperature=options.temperature,
        seed=options.seed,
        steps=options.steps,
        new_tokens=options.max_new_tokens,
        directive=options.directive,
        policies=policies or [AUTO],
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
    return replace(ask, chat=chat == "yes" or has)


def _tell(where: str, outcome: Outcome) -> None:
    joules = "joules unknown" if outcome.energy_j is None else f"{outcome.energy_j:.3g} J"
    worth = {True: "right", False: "wrong", None: "censored"}[outcome.correct]
    _say(f"{where}: {outcome.error or f'{outcome.answer} {worth}, {outcome.new_tokens} tokens, {joules}'}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
