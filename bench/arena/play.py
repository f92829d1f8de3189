"""Plays arms on questions, one request at a time; what a file holds already is not played again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.arena import outcomes
from bench.arena.arms import Arm
from bench.arena.outcomes import Played
from bench.calibration.log import mend, refuse_packed
from bench.calibration.priced import Pricer
from bench.calibration.run import ask
from bench.testbed.question import Question, accepts
from engine.engine import Engine
from engine.errors import UsageError
from engine.steps import Phase

_TELL_S = 5.0


def play(
    engine: Engine,
    pricer: Pricer,
    arms: Sequence[Arm],
    asked: Sequence[Question],
    *,
    split: str,
    run: str,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Every arm on each question, question by question, so that a file that was cut short compares what it
    has.

    Raises `UsageError` for a file with outcomes of another model or energy source.
    """
    card = engine.origin.card
    mend(out)
    known = outcomes.read([out]) if out.exists() else []
    weighed = {arm.name: (arm.price, arm.rule) for arm in arms}
    for line in known:
        if (line.model, line.quantization, line.energy_source) != (card.id, card.quantization, pricer.source):
            raise UsageError(f"{out} holds outcomes of {line.model} by {line.energy_source}")
        then = (line.price, line.rule)
        if then != (now := weighed.get(line.arm, then)):
            raise UsageError(
                f"{out} holds outcomes of {line.arm} at {then[0]} points per joule by the rule of {then[1]}, "
                f"and it plays at {now[0]} by that of {now[1]} now: another rule needs another --out"
            )
    done = {line.key for line in known}
    due = [(arm, question) for question in asked for arm in arms]
    due = [(arm, q) for arm, q in due if (arm.name, q.category, q.seed) not in done]
    if due:
        refuse_packed(out)
    say(f"{len(due)} runs to play, {len(arms) * len(asked) - len(due)} in {out}")
    told_s = time.monotonic()
    for number, (arm, question) in enumerate(due, 1):
        outcomes.append(out, _played(engine, pricer, arm, question, split, run))
        if time.monotonic() - told_s >= _TELL_S:
            told_s = time.monotonic()
            say(f"{number} of {len(due)} runs")


def _played(engine: Engine, pricer: Pricer, arm: Arm, question: Question, split: str, run: str) -> Played:
    began_s = time.monotonic()
    session, result = ask(engine, question, arm.policies)
    elapsed_s = time.monotonic() - began_s
    spent = pricer.executed_j(session.ledger.marks, 0)
    return Played(
        arm=arm.name,
        model=engine.origin.card.id,
        quantization=engine.origin.card.quantization,
        category=question.category,
        question=question.prompt,
        seed=question.seed,
        split=split,
        answer=result.answer or "",
        correct=accepts(question, result.answer),
        reason=str(result.stop.reason),
        forced=result.stop.forced_answer,
        think_tokens=sum(phase == Phase.THINK for phase in result.phases_by_token),
        new_tokens=len(result.token_ids),
        energy_j=sum(spent.values()),
        probe_j=spent.get(Phase.PROBE, 0.0),
        ledger_j=result.energy.window_j,
        elapsed_s=elapsed_s,
        price=arm.price,
        rule=arm.rule,
        energy_source=pricer.source,
        run=run,
    )
