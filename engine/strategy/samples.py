"""Several samples of one prompt as rows of one request: what they share, and what each came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.result import Generation
from engine.steps import Step, StopReason
from engine.strategy.base import Sample, has_begun, row_j
from engine.strategy.likelihood import Likelihood

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt
    from engine.session import Session

ALL_DRAWN = "all samples were drawn"
MOST_SAMPLES = 16  # the paper's, and the rows that a step on a GPU takes

Read = Callable[[str], str | None]


def as_written(answer: str) -> str | None:
    """The answer is what stands there; None where nothing does."""
    return answer.strip() or None


def check_samples(samples: int) -> None:
    """Raises `UsageError`."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise UsageError(f"samples must be 1 to {MOST_SAMPLES}, not {samples}")


def check_temperature(strategy: str, temperature: float) -> None:
    """Raises `UsageError` where samples of text would all be the same."""
    if temperature == 0:
        raise UsageError(f"{strategy} at temperature 0 would sample the same text again and again")


@dataclass(slots=True)
class Samples:
    """The rows of a running session. `read` makes of a row's answer what is counted, None for no answer.

    Under a joule budget no more of them begin together than it is predicted to hold answers of. `wave_j`:
    joules of the rows that began together and ended last, without the prefill, which is paid once.
    """

    session: "Session"
    likelihood: Likelihood
    read: Read
    count: int
    answers: dict[int, str | None] = field(default_factory=dict)
    wave_j: float = 0.0
    _wave_from_j: float | None = None

    @classmethod
    def begin(
        cls,
        engine: "Engine",
        prompt: "Prompt",
        samples: int,
        read: Read,
        *,
        strategy: str,
        **options: Any,
    ) -> "Samples":
        """The session of so many rows of one prompt; `strategy` names it where it is refused."""
        check_temperature(strategy, options.get("temperature", 0.0))
        likelihood = Likelihood()
        hooks = [*options.pop("hooks", ()), likelihood]
        session = engine.start([prompt] * samples, hooks=hooks, rows_by_budget=True, **options)
        return cls(session, likelihood, read, samples)

    @property
    def wave(self) -> int:
        """How many rows begin together."""
        return self.session.rows_at_once

    def catch_up(self, step: Step) -> bool:
        """The answers of rows that have ended: by a token, or by what a probe behind one said.

        Returns whether a wave is over now, and others wait.
        """
        if self._wave_from_j is None and self.wave < self.count:
            self._wave_from_j = step.energy().spent_j
        before = len(self.answers)
        for row in range(self.count):
            reason = None if row in self.answers else self.session.ended(row)
            if reason is not None:
                self.answers[row] = self._answer(row, reason)
        ended = len(self.answers)
        if self._wave_from_j is None or ended == self.count or ended // self.wave == before // self.wave:
            return False
        spent_j = step.energy().spent_j
        self.wave_j, self._wave_from_j = spent_j - self._wave_from_j, spent_j
        return True

    def over_budget(self, step: Step) -> str | None:
        """Behind a wave: why no other begins, where the budget may not hold one like the last."""
        left_j = step.budget_left_j()
        if left_j is None or left_j >= self.wave_j:
            return None
        return f"budget: {len(self.answers)} of {self.count} samples; another wave may not fit in it"

    def cancel_others(self) -> None:
        """Those that run or wait."""
        self.session.cancel(set(range(self.count)) - self.answers.keys())

    def settled(self, results: Sequence[Generation]) -> list[tuple[Generation, Sample]]:
        """Of every row that began, in order, with the answer that it came to."""
        found = []
        for result in results:
            if has_begun(result):
                answer = self.answers.get(result.row)
                found.append((result, self._sample(result, answer)))
        return found

    def _sample(self, result: Generation, answer: str | None) -> Sample:
        return Sample(
            token_ids=result.token_ids,
            text=result.text,
            answer=answer,
            stop=str(result.stop.reason),
            energy_j=row_j(result),
            log_probability=self.likelihood.mean(result.row),
        )

    def _answer(self, row: int, reason: StopReason) -> str | None:
        """None, which abstains, also where the joule budget ended in mid-answer: half a number is no vote."""
        if reason in (StopReason.CANCELLED, StopReason.ERROR, StopReason.JOULE_BUDGET):
            return None
        written = self.session.answer(row)
        return None if written is None else self.read(written)
