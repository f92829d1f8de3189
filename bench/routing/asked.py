"""A question of the test bed put to a model in every way that it has, as outcomes.

Joules are those of the forwards that ran, by a frozen operating curve, as if the device did nothing else; the
rows of a vote are priced together, as they were decoded.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.calibration.priced import Pricer
from bench.calibration.run import ANSWER_TOKENS
from bench.routing.reading import Reading
from bench.routing.ways import Way, arm_name
from bench.testbed.question import Question, accepts
from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.predict.outcomes import Outcome
from engine.reader import features, read
from engine.steps import Phase
from engine.stop.token import TokenBudget
from engine.strategy.ask import AnswerProbability
from engine.strategy.base import Attempt
from engine.strategy.cot import Cot
from engine.strategy.direct import Direct
from engine.strategy.vote import Vote


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that is asked. `name`: without a folder in front of it. `curve`: the digest of its curve, empty
    where nobody asked for it.
    """

    name: str
    engine: Engine
    pricer: Pricer
    curve: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """`ledger_j`: what the meter booked. `thought`: tokens of thinking, a closer of the model's own
    included.
    """

    outcome: Outcome
    ledger_j: float | None
    thought: int


def question_id(question: Question) -> str:
    """Names it in every file: its category and its number, which tells its split."""
    return f"{question.category}/{question.seed}"


def read_question(asked: Asked, question: Question, split: str) -> Reading:
    """By the model that is the smallest. What an arm of its own is spared of a reading's joules: those of
    the tokens and their attention, not what every request and every prefill costs whatever its size.
    """
    found = read(asked.engine, question.prompt)
    told, tokens = features(asked.engine, question.prompt, found), len(found.token_ids)
    energy = asked.pricer.curve.energy
    return Reading(
        question=question_id(question),
        split=split,
        reader=asked.name,
        features=tuple(float(f"{value:.6g}") for value in told),
        prompt_tokens=tokens,
        energy_j=asked.pricer.written_j(tokens, 1),
        saved_j=energy.expected((0.0, 0.0, float(tokens), float(tokens**2), 0.0, 0.0, 0.0)),
        energy_source=asked.pricer.source,
        elapsed_s=found.elapsed_s,
        ledger_j={"reading": found.energy_j},
    )


def tell(asked: Asked, question: Question, ways: Sequence[Way]) -> list[Told]:
    """What came of each way, in their order.

    Chains of thought are run from the largest budget on. A row's draws are keyed by seed, row and place, so
    that thinking which ended by itself before a smaller budget would have ended it is, token for token, what
    that budget gives: it is told again, and not run again. Raises `TokenjouleError` where a run failed.
    """
    told: dict[Way, Told] = {}
    whole: Told | None = None
    for way in sorted(ways, key=lambda way: -way.budget_tokens):
        if way.family != "cot":
            told[way] = run(asked, question, way)
        elif whole is not None and whole.thought < way.budget_tokens:
            told[way] = replace(whole, outcome=replace(whole.outcome, arm=arm_name(asked.name, way)))
        else:
            told[way] = whole = run(asked, question, way)
    return [told[way] for way in ways]


def run(asked: Asked, question: Question, way: Way) -> Told:
    """One request. Raises `TokenjouleError` where it failed."""
    began_s, probability = time.monotonic(), AnswerProbability()
    attempt = _begun(asked.engine, question, way, probability)
    for _ in attempt.steps():
        pass
    found = attempt.outcome()
    elapsed_s, result = time.monotonic() - began_s, found.result
    if result.error is not None:
        raise TokenjouleError(f"{asked.name}, question {question_id(question)}: {result.error}")
    answer = (found.answer or "").strip() or None
    confidence = None if probability.log is None else math.exp(probability.log)
    if found.votes is not None:
        confidence = found.votes.get(answer or "", 0) / way.samples
    outcome = Outcome(
        question=question_id(question),
        query=question.prompt,
        category=question.category,
        arm=arm_name(asked.name, way),
        correct=int(accepts(question, answer)),
        answer=answer,
        prompt_tokens=result.prompt_tokens,
        new_tokens=found.new_tokens,
        energy_j=asked.pricer.request_j(attempt.session.ledger.marks),
        energy_source=asked.pricer.source,
        elapsed_s=elapsed_s,
        confidence=None if answer is None else confidence,
    )
    ledger_j = result.energy.window_j if result.energy.complete else None
    thought = sum(phase == Phase.THINK for phase in result.phases_by_token)
    return Told(outcome, ledger_j, thought)


def _begun(engine: Engine, question: Question, way: Way, probability: AnswerProbability) -> Attempt:
    protocol = {"temperature": 1.0, "answer_temperature": 0.0, "seed": question.seed}
    options = {**protocol, "hooks": [probability], "category": question.category}
    if not way.budget_tokens:
        return Direct().begin(engine, question.prompt, **options, max_new_tokens=ANSWER_TOKENS)
    options |= {"answer_tokens": ANSWER_TOKENS, "policies": [TokenBudget(way.budget_tokens)]}
    strategy = Vote(way.samples) if way.samples > 1 else Cot()
    return strategy.begin(engine, question.prompt, **options)
