"""One multiple-choice question answered by one technique: the only place of Table 1 that drives an engine.

`direct`: the letter's probabilities from one forward behind "The best answer is", renormalised over the
letters. `vote`: draws from that same distribution, so that all of them cost one direct answer.
`vote-independent`: as many requests of their own, each with its prefill, as the paper's cost of voting
suggests. `cot`: Meta's schema, written steps, then the answer. `cot+stop`: the same with stop policies.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench.benchmarks.item import Item, letters
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.result import Generation
from engine.steps import Prefill, Step, StopPolicy, StopReason
from engine.stop import StepBudget
from engine.strategy.grading import Grade, Kind, grade
from engine.strategy.prompts import NEW_TOKENS, STEPS, Directive, Schema, direct_schema, reasoning_schema
from engine.thinking import ThinkingFormat
from engine.tokenizer import Tokenizer

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
    policies: Sequence[StopPolicy] = ()


@dataclass(frozen=True)
class Attempt:
    """One question's outcome. `energy_j`: of the whole request(s), None where the meter told nothing.

    `forced`: the thinking was cut and the answer asked for. `votes`: answer to number of votes, None where
    nothing was voted on; "" counts votes without an answer. `mass`: probability of all letters together.
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
    mass: float | None = None


def attempt(engine: Engine, item: Item, technique: str, ask: Ask) -> Attempt:
    """Answer one question. Raises `TokenjouleError` where it cannot be asked: it may not fit the context."""
    if item.choices is None or item.answer is None:
        raise UsageError(f"Table 1 needs questions with choices; {item.benchmark} has none")
    match technique:
        case "direct" | "vote":
            return _from_distribution(engine, item, item.choices, ask, vote=technique == "vote")
        case "vote-independent":
            return _independent_votes(engine, item, item.choices, ask)
        case "cot" | "cot+stop":
            policies = ask.policies if technique == "cot+stop" else ()
            return _reasoned(engine, item, item.choices, ask, policies)
    raise UsageError(f"unknown technique {technique!r}; there are {', '.join(TECHNIQUES)}")


@dataclass
class _FirstLogits:
    """A hook that keeps what the first token was chosen from: (V,) fp32."""

    needs: frozenset[str] = frozenset({"logits"})
    logits: torch.Tensor | None = field(default=None)

    def on_prefill(self, prefill: Prefill) -> None: ...

    def on_step(self, step: Step) -> None:
        if step.index == 0:
            self.logits = step.logits().clone()

    def on_end(self, result: Generation) -> None: ...


def _from_distribution(
    engine: Engine, item: Item, choices: tuple[str, ...], ask: Ask, *, vote: bool
) -> Attempt:
    names = letters(choices)
    ids, each = _direct_prompt(engine, item, choices, ask)
    hook = _FirstLogits()
    begun_s = time.monotonic()
    result = _run(engine, ids, hooks=[hook], max_new_tokens=1, ignore_eos=True)
    elapsed_s = time.monotonic() - begun_s
    if hook.logits is None:
        raise TokenjouleError(result.error or "the request gave no token")
    every = hook.logits.double()
    these = every[torch.tensor(each, device=every.device)]
    mass = float(torch.exp(torch.logsumexp(these, 0) - torch.logsumexp(every, 0)))
    votes = None
    best = names[int(torch.argmax(these))]
    if vote:
        weights = torch.softmax(these / ask.temperature, 0).tolist()
        votes = Counter(random.Random(f"{ask.seed}/{item.id}").choices(names, weights, k=ask.samples))
        best = max(names, key=lambda name: (votes[name], weights[names.index(name)]))  # ties: the likelier
    return _attempt(item, best, names, [result], elapsed_s, finished=True, votes=votes, mass=mass)


def _independent_votes(engine: Engine, item: Item, choices: tuple[str, ...], ask: Ask) -> Attempt:
    names = letters(choices)
    ids, each = _direct_prompt(engine, item, choices, ask)
    by_id = dict(zip(each, names, strict=True))
    begun_s = time.monotonic()
    results = [
        _run(
            engine,
            ids,
            max_new_tokens=1,
            ignore_eos=True,
            temperature=ask.temperature,
            seed=ask.seed + number,
        )
        for number in range(ask.samples)
    ]
    elapsed_s = time.monotonic() - begun_s
    votes = Counter(by_id.get(result.token_ids[0], "") for result in results)
    found = [name for name in names if votes[name]]
    best = max(found, key=lambda name: votes[name]) if found else ""  # ties: the first letter
    return _attempt(item, best, names, results, elapsed_s, finished=True, votes=votes)


def _reasoned(
    engine: Engine, item: Item, choices: tuple[str, ...], ask: Ask, policies: Sequence[StopPolicy]
) -> Attempt:
    schema = reasoning_schema(engine.thinking, multiple_choice=True)
    limits: list[StopPolicy] = [StepBudget(ask.steps)] if ask.steps else []
    ids = _encode(engine, schema, item, choices, ask)
    with _thinking(engine, schema.thinking):
        begun_s = time.monotonic()
        result = _run(
            engine,
            ids,
            max_new_tokens=ask.new_tokens,
            answer_tokens=ask.answer_tokens,
            policies=[*limits, *policies],
        )
        elapsed_s = time.monotonic() - begun_s
    finished = result.stop.answer_end in FREE_END or result.stop.forced_answer
    text = result.text if result.answer is None else result.answer
    return _attempt(item, text, letters(choices), [result], elapsed_s, finished=finished, whole=result.text)


def _run(engine: Engine, ids: Sequence[int], **options: object) -> Generation:
    result = engine.generate(ids, **options)
    if result.error is not None:
        raise TokenjouleError(result.error)
    return result


def _direct_prompt(
    engine: Engine, item: Item, choices: tuple[str, ...], ask: Ask
) -> tuple[list[int], list[int]]:
    """(prompt ids, the id of each letter): behind the prompt comes nothing but a letter."""
    schema = direct_schema(engine.thinking, multiple_choice=True)
    ids = _encode(engine, schema, item, choices, ask, directive=Directive.NONE)
    tokenizer, thinking = engine.tokenizer, engine.thinking
    if thinking is not None:  # it is closed before it has begun
        opener = tokenizer.encode_inside(thinking.opener) if thinking.opener else []
        ids += [*opener, *thinking.closer_ids(tokenizer), *thinking.answer_prefix_ids(tokenizer)]
    ids += tokenizer.encode_inside(schema.begins) if schema.begins else []
    space, each = _letter_tokens(tokenizer, letters(choices), " " if schema.begins else "")
    return [*ids, *space], each


def _letter_tokens(tokenizer: Tokenizer, names: str, space: str) -> tuple[list[int], list[int]]:
    """(ids that come before every letter, the id of each letter), behind a text that wants `space` first.

    With the space in the letter's own token where the vocabulary has all of them so, else as a token before
    it.
    """
    for before, texts in (("", [space + name for name in names]), (space, list(names))):
        each = [tokenizer.encode_inside(text) for text in texts]
        if all(len(ids) == 1 for ids in each) and len({ids[0] for ids in each}) == len(names):
            return tokenizer.encode_inside(before) if before else [], [ids[0] for ids in each]
    raise TokenjouleError("this model's tokenizer does not tell the letters apart by one token")


def _encode(
    engine: Engine,
    schema: Schema,
    item: Item,
    choices: tuple[str, ...],
    ask: Ask,
    *,
    directive: Directive | None = None,
) -> list[int]:
    given = ask.directive if directive is None else directive
    return engine.encode(schema.prompt(item.question, choices=choices, directive=given), chat=ask.chat)


@contextmanager
def _thinking(engine: Engine, format: ThinkingFormat | None) -> Iterator[None]:
    """The engine takes the written steps of a schema for thinking, unless the model has tags of its own."""
    own = engine.thinking
    engine.thinking = format or own
    try:
        yield
    finally:
        engine.thinking = own


def _attempt(
    item: Item,
    text: str,
    names: str,
    results: Sequence[Generation],
    elapsed_s: float,
    *,
    finished: bool,
    whole: str | None = None,
    votes: Mapping[str, int] | None = None,
    mass: float | None = None,
) -> Attempt:
    """Graded; joules and tokens summed over the requests."""
    known = [r.energy.window_j for r in results if r.energy.complete and r.energy.window_j is not None]
    assert item.answer is not None
    graded = grade(text, item.answer, Kind.CHOICE, finished=finished, letters=names)
    if graded.answer is None and whole is not None and whole != text:
        graded = grade(whole, item.answer, Kind.CHOICE, finished=finished, letters=names)
    last = results[-1]
    return Attempt(
        grade=graded,
        stop=str(last.stop.reason),
        forced=last.stop.forced_answer,
        prompt_tokens=sum(result.prompt_tokens for result in results),
        new_tokens=sum(len(result.token_ids) for result in results),
        energy_j=sum(known) if len(known) == len(results) else None,
        elapsed_s=elapsed_s,
        text=text if whole is None else whole,
        votes=votes,
        mass=mass,
    )
