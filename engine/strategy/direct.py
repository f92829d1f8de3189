"""Answering at once: a choice read from one forward's distribution, else text without thinking first."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.result import Generation
from engine.rows import Marks, Request, Row
from engine.sampler import Sampling
from engine.steps import Phase
from engine.stop.names import NONE, is_file
from engine.stop.step import StepBudget
from engine.strategy.base import Attempt, Outcome
from engine.strategy.choices import Choices, FirstLogits, check_answers, read_logits

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt


@dataclass(frozen=True, slots=True)
class Direct:
    """`choices`: the answers there are, each one token; the likeliest at temperature 0, else one draw.

    Without choices the model writes its answer. On a model that thinks, its thinking is closed before it
    begins: closer and answer prefix are part of the prompt.
    """

    choices: tuple[str, ...] = ()
    name: str = "direct"

    def __post_init__(self) -> None:
        if self.choices:
            check_answers(self.choices)

    @property
    def streams(self) -> bool:
        return not self.choices

    def begin(self, engine: "Engine", prompt: "Prompt", **options: Any) -> Attempt:
        temperature = options.get("temperature", 0.0)
        if self.choices:
            return begin_choices(engine, prompt, self.choices, self._conclude, **options)
        if engine.thinking is not None:
            _refuse_stops(options)
        session = engine.start([answered_at_once(engine, prompt, options)], **options)

        def conclude(results: Sequence[Generation]) -> Outcome:
            return Outcome(self.name, results[0], temperature)

        return Attempt(session, conclude)

    def _conclude(self, read: "ReadChoices") -> Outcome:
        [answer] = read.draw(1)
        return Outcome(
            self.name, read.as_answer(answer), read.sampling.temperature, probabilities=read.probabilities
        )


@dataclass(frozen=True, slots=True)
class ReadChoices:
    """One forward over the prompt, read as a distribution over the `choices`."""

    choices: Choices
    probabilities: dict[str, float]
    result: Generation
    sampling: Sampling

    def draw(self, count: int) -> list[str]:
        """Answers, as rows 0 … `count` - 1 of a request would choose them."""
        return self.choices.draw(self.probabilities, count, self.sampling, self.result.prompt_tokens)

    def log_probability(self, answer: str) -> float:
        """Among the choices, in nats."""
        probability = self.probabilities[answer]
        return math.log(probability) if probability > 0 else -math.inf

    def as_answer(self, answer: str) -> Generation:
        """The request's result with this answer as its one token, in place of the loop's own choice."""
        token = self.choices.token_id(answer)
        return replace(self.result, token_ids=(token,), text=answer, answer=answer)


def begin_choices(
    engine: "Engine",
    prompt: "Prompt",
    answers: Sequence[str],
    conclude: "Callable[[ReadChoices], Outcome]",
    **options: Any,
) -> Attempt:
    """One prefill, no decode step; `conclude` makes an outcome of its `ReadChoices`."""
    if options.get("repetition_penalty", 1.0) != 1.0:
        raise UsageError("a choice is made once: there is nothing to repeat, and no penalty for it")
    choices, reader = Choices(answers, engine.tokenizer), FirstLogits()
    sampling = Sampling(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k"),
        top_p=options.get("top_p"),
        min_p=options.get("min_p"),
        seed=options.get("seed", 0),
        answer_temperature=options.get("answer_temperature"),
    ).of_answer  # a choice is an answer
    ids = answered_at_once(engine, prompt, options)
    hooks = [*options.pop("hooks", ()), reader]
    options["max_new_tokens"] = 1
    session = engine.start([ids], hooks=hooks, **options)

    def settle(results: Sequence[Generation]) -> Outcome:
        [result] = results
        found = choices.probabilities(read_logits(reader, result.error))
        return conclude(ReadChoices(choices, found, result, sampling))

    return Attempt(session, settle)


def _refuse_stops(options: Mapping[str, Any]) -> None:
    """Raises `UsageError` for what ends thinking, where there is none. A user's own policy may do more."""
    named = [policy for policy in options.get("policies", ()) if isinstance(policy, str)]
    idle = [name for name in named if name != NONE and not is_file(name)]
    if any(isinstance(policy, StepBudget) for policy in options.get("policies", ())):
        idle.append("a step budget")
    if options.get("budget_tokens") is not None:
        idle.append("a token budget")
    if idle:
        raise UsageError(f"direct closes the thinking before it begins: {idle[0]} has nothing to end")


def answered_at_once(engine: "Engine", prompt: "Prompt", options: dict[str, Any]) -> "Prompt":
    """The prompt as it is, or as token ids with the thinking closed where the model marks it.

    Takes `chat` and `system` out of `options` where it has applied them.
    """
    format, tokenizer = engine.thinking, engine.tokenizer
    if format is None:
        return prompt
    chat, system = options.pop("chat", False), options.pop("system", None)
    ids = engine.encode(prompt, chat=chat, system=system) if isinstance(prompt, str) else list(prompt)
    if not ids:
        return ids
    marks = Marks.of(format, tokenizer, 1)
    row = Row(0, -1, Request(tuple(ids), 1), tokenizer, marks, len(ids) + 1, len(ids) + 1)
    if row.phase is Phase.ANSWER and row.answer_from is not None:
        return ids  # the prompt closed it already
    if row.phase is Phase.ANSWER:  # nothing opened it: an empty thought, as Qwen3's own template writes one
        ids = [*ids, *marks.opener, *tokenizer.encode_inside(format.step_separator)]
    return [*ids, *marks.closer, *marks.answer_prefix]
