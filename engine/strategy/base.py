"""What a strategy is: one question to one answer, as one request with one account of joules.

A strategy says which rows a request has, watches them run, and chooses among what they found. What its rows
cost is the ledger's business, when each of them stops that of its stop policies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from engine.result import Generation
from engine.steps import Step, StopReason

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt
    from engine.session import Session


@dataclass(frozen=True, slots=True)
class Sample:
    """One candidate. `energy_j`: its row's joules, with its part of a shared prefill, but not what lies
    between steps; None where the meter told nothing. `log_probability`: mean over the tokens that the model
    wrote itself, None where nothing was asked of it.
    """

    token_ids: tuple[int, ...]
    text: str
    answer: str | None
    stop: str
    energy_j: float | None
    log_probability: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "new_tokens": len(self.token_ids),
            "token_ids": list(self.token_ids),
            "text": self.text,
            "answer": self.answer,
            "stop": self.stop,
            "energy_j": self.energy_j,
            "mean_log_probability": self.log_probability,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy came to. `result`: the row that stands for it, with the whole request's joules.

    `samples`: those that began, None where there is only `result`. `votes` by answer and how ties were
    broken, for a vote; `probabilities` of the choices, where one forward gave them. `ended`: why no more was
    sampled. `cancelled`: by the caller, before the strategy was done.
    """

    strategy: str
    result: Generation
    temperature: float
    samples: tuple[Sample, ...] | None = None
    votes: Mapping[str, int] | None = None
    tie_rule: str | None = None
    tied: tuple[str, ...] = ()
    probabilities: Mapping[str, float] | None = None
    ended: str | None = None
    cancelled: bool = False

    @property
    def answer(self) -> str | None:
        return self.result.answer

    @property
    def new_tokens(self) -> int:
        """Of all samples; draws from one forward's probabilities are one token."""
        if self.probabilities is not None:
            return len(self.result.token_ids)
        return sum(len(sample.token_ids) for sample in self.samples or (self.result,))

    def to_json(self) -> dict[str, Any]:
        """The generation's object; the tokens of all samples, each written, in its joules per token."""
        found = self.result.to_json()
        found |= {
            "strategy": self.strategy,
            "temperature": self.temperature,
            "samples": None if self.samples is None else [sample.to_json() for sample in self.samples],
            "votes": None if self.votes is None else dict(self.votes),
            "tie_rule": self.tie_rule,
            "tied": list(self.tied),
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "sampling_ended": self.ended,
        }
        window_j = self.result.energy.window_j
        if self.samples is not None and window_j is not None and self.new_tokens:
            found["energy"]["joules_per_token"] = window_j / (self.result.prompt_tokens + self.new_tokens)
            found["energy"]["joules_per_new_token"] = window_j / self.new_tokens
        return found

    def line(self) -> str | None:
        """The samples in one line; None where there is only one result."""
        if self.samples is None:
            return None
        parts = [f"{self.strategy}: {len(self.samples)} samples, {self.new_tokens} new tokens in all"]
        if self.votes:
            parts.append("votes " + ", ".join(f"{answer!r} {count}" for answer, count in self.votes.items()))
        if self.tied:
            parts.append(f"tie broken by {self.tie_rule}")
        return "; ".join([*parts, f"ended: {self.ended}"])


class Strategy(Protocol):
    """`name` as `--strategy` has it. `streams`: its first row's text is the answer's text as it comes."""

    @property
    def name(self) -> str: ...
    @property
    def streams(self) -> bool: ...

    def begin(self, engine: "Engine", prompt: "Prompt", **options: Any) -> "Attempt":
        """Check the request; nothing has been computed yet. `options` as `Engine.start` has them."""


class Attempt:
    """A strategy at work: iterate over `steps()`, then take the `outcome()`.

    `watch` sees every step before the next one is computed, and may cancel rows of the session.
    """

    def __init__(
        self,
        session: "Session",
        conclude: Callable[[Sequence[Generation]], Outcome],
        watch: Callable[[Step], None] | None = None,
    ) -> None:
        self.session, self._conclude, self._watch = session, conclude, watch
        self._cancelled = False

    def steps(self) -> Iterator[Step]:
        for step in self.session.steps():
            if self._watch is not None:
                self._watch(step)
            yield step

    def cancel(self) -> None:
        """End early; the outcome is what was found so far."""
        self._cancelled = True
        self.session.cancel()

    def outcome(self) -> Outcome:
        """Settles the account; the same when asked again."""
        found = self._conclude(self.session.results())
        if found.ended is not None and found.probabilities is None:
            if found.result.error is not None:
                found = replace(found, ended="an error ended it")
            elif self._cancelled:
                found = replace(found, ended="cancelled")
        return replace(found, cancelled=self._cancelled)


def run(engine: "Engine", prompt: "Prompt", strategy: Strategy, **options: Any) -> Outcome:
    """`prompt` answered by `strategy`; `options` as `Engine.start` has them."""
    attempt = strategy.begin(engine, prompt, **options)
    for _ in attempt.steps():
        pass
    return attempt.outcome()


def row_j(result: Generation) -> float | None:
    """The row's own joules of the request."""
    row = result.energy.rows.get(result.row)
    return None if row is None else row.total_j


def has_begun(result: Generation) -> bool:
    """Not a row of a wave that was never needed."""
    return bool(result.token_ids) or result.stop.answer_end is not StopReason.CANCELLED
