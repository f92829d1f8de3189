"""One multiple-choice question answered by one technique: the only place of Table 1 that drives an engine.

`direct`: the likeliest letter behind "The best answer is", from one forward. `vote`: draws from that same
distribution, so that all of them cost one direct answer. `vote-independent`: samples that each prefill for
themselves, as the paper's cost of voting suggests. `cot`: Meta's schema, written steps, then the answer.
`cot+stop`: the same with stop policies.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.benchmarks.item import Item, letters
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.steps import StopPolicy, StopReason
from engine.stop import StepBudget
from engine.strategy import Cot, Direct, Outcome, Strategy, Vote, run
from engine.strategy.direct import answered_at_once
from engine.strategy.grading import Grade, Kind, find, grade
from engine.strategy.prompts import NEW_TOKENS, STEPS, Directive, direct_schema, reasoning_schema
from engine.strategy.vote import Until
from engine.thinking import ThinkingFormat

TECHNIQUES = ("direct", "vote", "vote-independent", "cot", "cot+stop")
FREE_END = (StopReason.EOS, StopReason.STOP_SEQUENCE)


@dataclass(frozen=True)
class Ask:
    """How questions are put. `samples` and `temperature` are of the votes; the rest decodes greedily.

    `steps`: at most so many written steps; 0 for no limit, and then no answer is forced at the token limit.
    `policies`: of `cot+stop`.
    """

    chat: bool = False
    samples: int = 16
    temperature: float = 1.0
    seed: int = 0
    steps: int = STEPS
    new_tokens: int = NEW_TOKENS
    answer_tokens: int = 16
    directive: Directive = Directive.NONE
    policies: Sequence[StopPolicy | str] = ()


@dataclass(frozen=True)
class Attempt:
    """One question's outcome. `energy_j`: of the whole request, None where the meter did not tell all of it.

    `prompt_tokens`: as often as they were computed. `forced`: the thinking was cut and the answer asked for.
    `votes`: by answer, None where nothing was voted on.
    """

    grade: Grade
    stop: str
    forced: bool
    prompt_tokens: int
    new_tokens: int
    energy_j: float | None
    elapsed_s: float
    text: str
    votes: Mapping[str, int] | None = None


def attempt(engine: Engine, item: Item, technique: str, ask: Ask) -> Attempt:
    """Answer one question. Raises `TokenjouleError` where it cannot be asked: it may not fit the context."""
    if item.choices is None or item.answer is None:
        raise UsageError(f"Table 1 needs questions with choices; {item.benchmark} has none")
    names, sampled = tuple(letters(item.choices)), {"temperature": ask.temperature, "seed": ask.seed}
    match technique:
        case "direct":
            return _at_once(engine, item, ask, Direct(names))
        case "vote":
            return _at_once(engine, item, ask, Vote(ask.samples, names), **sampled)
        case "vote-independent":
            read = partial(find, kind=Kind.CHOICE, letters="".join(names))
            vote = Vote(ask.samples, until=Until.ALL, independent=True, read=read)
            made = _at_once(engine, item, ask, vote, max_new_tokens=1, ignore_eos=True, **sampled)
            return replace(made, prompt_tokens=made.prompt_tokens * ask.samples)
        case "cot" | "cot+stop":
            return _reasoned(engine, item, ask, ask.policies if technique == "cot+stop" else ())
    raise UsageError(f"unknown technique {technique!r}; there are {', '.join(TECHNIQUES)}")


def _at_once(engine: Engine, item: Item, ask: Ask, strategy: Strategy, **options: Any) -> Attempt:
    """A letter without any reasoning: the answer line stands there already, thinking is closed."""
    schema = direct_schema(engine.thinking, multiple_choice=True)
    prompt = engine.encode(schema.prompt(item.question, choices=item.choices), chat=ask.chat)
    asked = answered_at_once(engine, prompt, {})
    assert not isinstance(asked, str), "ids stay ids"
    ids = list(asked)
    if schema.begins:
        ids += engine.tokenizer.encode_inside(schema.begins)
    outcome, elapsed_s = _timed(engine, ids, strategy, options)
    return _attempt(item, outcome, outcome.answer or "", elapsed_s, finished=True)


def _reasoned(engine: Engine, item: Item, ask: Ask, policies: Sequence[StopPolicy | str]) -> Attempt:
    schema = reasoning_schema(engine.thinking, multiple_choice=True)
    prompt = schema.prompt(item.question, choices=item.choices, directive=ask.directive)
    options: dict[str, Any] = {
        "max_new_tokens": ask.new_tokens,
        "answer_tokens": ask.answer_tokens,
        "policies": [*([StepBudget(ask.steps)] if ask.steps else []), *policies],
    }
    with _thinking(engine, schema.thinking):
        outcome, elapsed_s = _timed(engine, engine.encode(prompt, chat=ask.chat), Cot(), options)
    stop, text = outcome.result.stop, outcome.result.text
    finished = stop.answer_end in FREE_END or stop.forced_answer
    made = _attempt(item, outcome, outcome.answer or text, elapsed_s, finished=finished)
    if made.grade.answer is None:  # the model may have settled on one before it was made to answer
        made = _attempt(item, outcome, text, elapsed_s, finished=finished)
    return replace(made, text=text)


def _timed(
    engine: Engine, ids: list[int], strategy: Strategy, options: Mapping[str, Any]
) -> tuple[Outcome, float]:
    begun_s = time.monotonic()
    outcome = run(engine, ids, strategy, **options)
    if outcome.result.error is not None:
        raise TokenjouleError(outcome.result.error)
    return outcome, time.monotonic() - begun_s


@contextmanager
def _thinking(engine: Engine, format: ThinkingFormat | None) -> Iterator[None]:
    """The engine takes the written steps of a schema for thinking, unless the model has tags of its own."""
    own = engine.thinking
    engine.thinking = format or own
    try:
        yield
    finally:
        engine.thinking = own


def _attempt(item: Item, outcome: Outcome, text: str, elapsed_s: float, *, finished: bool) -> Attempt:
    assert item.answer is not None and item.choices is not None
    result, energy = outcome.result, outcome.result.energy
    return Attempt(
        grade=grade(text, item.answer, Kind.CHOICE, finished=finished, letters=letters(item.choices)),
        stop=str(result.stop.reason),
        forced=result.stop.forced_answer,
        prompt_tokens=result.prompt_tokens,
        new_tokens=1 if isinstance(outcome.probabilities, Mapping) else outcome.new_tokens,
        energy_j=energy.window_j if energy.complete else None,
        elapsed_s=elapsed_s,
        text=text,
        votes=outcome.votes,
    )
