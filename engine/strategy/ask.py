"""A question put to a model by one technique, in the words that the technique asks for on that model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.result import Generation
from engine.rows import Marks
from engine.steps import Phase, Prefill, Step
from engine.stop.names import AUTO, NONE, policy_named
from engine.strategy.base import Outcome, Strategy
from engine.strategy.cot import Cot
from engine.strategy.direct import Direct, answered_at_once
from engine.strategy.prompts import Directive, direct_schema, reasoning_schema
from engine.strategy.samples import check_samples
from engine.strategy.vote import Vote
from engine.thinking import ThinkingFormat

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.prefilled import Prefilled

TECHNIQUES = ("direct", "cot", "vote")


@dataclass(frozen=True, slots=True)
class Technique:
    """`budget_tokens`: of thinking, for each sample; a direct answer has its `answer_tokens` alone.

    `stop`: what may end a chain of thought before that, as `--stop` has it; files from where this runs.
    `temperature`: of all that is sampled; a vote needs one, a direct answer is the likeliest, as is one
    behind thinking that the model marks.
    Raises `ValueError` naming the field that is wrong.
    """

    technique: str
    budget_tokens: int = 0
    directive: str = "none"
    samples: int = 1
    temperature: float = 0.0
    answer_tokens: int = 16
    stop: str = NONE

    def __post_init__(self) -> None:
        vote = self.technique == "vote"
        if self.technique not in TECHNIQUES:
            raise ValueError(f"technique: {self.technique!r} is none of {', '.join(TECHNIQUES)}")
        if self.directive not in list(Directive):
            raise ValueError(f"directive: {self.directive!r} is none of {', '.join(Directive)}")
        if self.budget_tokens < 0 or (self.technique == "direct") == (self.budget_tokens > 0):
            raise ValueError("budget_tokens: a direct answer has none, others need one")
        if vote != (self.samples > 1):
            raise ValueError("samples: a vote needs 2 or more, others take none")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: must be a number of at least 0, not {self.temperature}")
        if vote and not self.temperature:
            raise ValueError("temperature: the samples of a vote need one above 0")
        if self.technique == "direct" and self.temperature:
            raise ValueError("temperature: a direct answer is the likeliest and takes none")
        check_samples(self.samples)
        if self.answer_tokens < 1:
            raise ValueError("answer_tokens: must be at least 1")
        if self.stop != NONE and self.technique != "cot":
            raise ValueError("stop: a chain of thought (cot) alone is stopped")
        if self.stop not in (AUTO, NONE):
            try:
                policy_named(self.stop)
            except UsageError as error:
                raise ValueError(f"stop: {error}") from error


@dataclass(frozen=True, slots=True)
class Answered:
    """`confidence`: the probability of the answer's own tokens, or the answer's share of the vote.

    `reused_tokens`: of the prompt, that were not read again.
    """

    outcome: Outcome
    answer: str | None
    confidence: float | None
    reused_tokens: int


class AnswerProbability:
    """A hook: the log-probability of the answer's own tokens, behind the thinking, by the model."""

    needs = frozenset({"logprob"})

    def __init__(self) -> None:
        self.log: float | None = None

    def on_prefill(self, prefill: Prefill) -> None:
        """Nothing yet."""

    def on_step(self, step: Step) -> None:
        if step.phase is Phase.ANSWER and not step.forced:
            self.log = (self.log or 0.0) + step.log_probability()

    def on_end(self, result: Generation) -> None:
        """All is read."""


def ask(
    engine: "Engine",
    question: str,
    way: Technique,
    *,
    chat: bool = False,
    budget_tokens: int | None = None,
    budget_joules: float | None = None,
    known: "Prefilled | None" = None,
    seed: int = 0,
) -> Answered:
    """`budget_tokens`: fewer than `way` has. `known`: the question as it was read, not to be read again.

    Raises `TokenjouleError` where it cannot be asked.
    """
    direct = way.technique == "direct"
    schema = (direct_schema if direct else reasoning_schema)(engine.thinking, multiple_choice=False)
    # Models that were trained on bare questions are given no instruction, and so no directive either.
    directive = Directive(way.directive) if schema.instruction and not direct else Directive.NONE
    probability, strategy = AnswerProbability(), _strategy(way)
    options: dict[str, Any] = {"budget_joules": budget_joules, "seed": seed, "hooks": [probability]}
    options |= {"temperature": way.temperature, "max_new_tokens": way.answer_tokens}
    options["policies"] = [way.stop]
    prompt: list[int] = engine.encode(schema.prompt(question, directive=directive), chat=chat)
    with _thinking(engine, schema.thinking) as format:
        if direct:
            prompt = [*answered_at_once(engine, prompt, {}), *engine.tokenizer.encode_inside(schema.begins)]
        else:
            budget = min(budget_tokens or way.budget_tokens, way.budget_tokens)
            options["max_new_tokens"] += budget
            if format is not None:
                marks = Marks.of(format, engine.tokenizer, way.answer_tokens)
                options["max_new_tokens"] = budget + marks.answer_cost_tokens
                options |= {"budget_tokens": budget, "answer_tokens": way.answer_tokens}
                options["answer_temperature"] = 0.0
        attempt = strategy.begin(engine, prompt, **options)
        if known is not None:
            attempt.session.begin_with(known)
        for _ in attempt.steps():
            pass
    outcome = attempt.outcome()
    answer = (outcome.answer if outcome.answer is not None else outcome.result.text).strip() or None
    confidence = None if probability.log is None else math.exp(probability.log)
    if outcome.votes is not None:
        confidence = outcome.votes.get(answer or "", 0) / way.samples
    reused = 0 if known is None else known.in_common(prompt)
    return Answered(outcome, answer, None if answer is None else confidence, reused)


def _strategy(way: Technique) -> Strategy:
    if way.technique == "vote":
        return Vote(way.samples)
    return Direct() if way.technique == "direct" else Cot()


@contextmanager
def _thinking(engine: "Engine", format: ThinkingFormat | None) -> Iterator[ThinkingFormat | None]:
    """The engine takes the steps that a schema asks for as thinking, unless the model has tags of its own."""
    own = engine.thinking
    engine.thinking = own or format
    try:
        yield engine.thinking
    finally:
        engine.thinking = own
