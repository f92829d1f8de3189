"""The sample that the model itself finds likeliest, by the mean log-probability of its new tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.result import Generation
from engine.steps import Step
from engine.strategy.base import Attempt, Outcome
from engine.strategy.samples import ALL_DRAWN, Read, Samples, as_written, check_samples

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt


@dataclass(frozen=True, slots=True)
class BestOfN:
    """`samples` rows on one prefill. `read`: what of an answer counts; a sample without one comes last.

    `independent`: each row computes the prompt by itself. A joule budget is kept as by a vote.
    """

    samples: int = 16
    read: Read = as_written
    independent: bool = False
    name: str = "best-of-n"
    streams: bool = False

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def begin(self, engine: "Engine", prompt: "Prompt", **options: Any) -> Attempt:
        temperature = options.get("temperature", 0.0)
        rows = Samples.begin(
            engine,
            prompt,
            self.samples,
            self.read,
            strategy=self.name,
            share_prompts=not self.independent,
            **options,
        )

        ended = ALL_DRAWN

        def watch(step: Step) -> None:
            nonlocal ended
            if rows.catch_up(step) and (why := rows.over_budget(step)):
                ended = why
                rows.cancel_others()

        def conclude(results: Sequence[Generation]) -> Outcome:
            found = rows.settled(results)

            def score(number: int) -> tuple[bool, float, int]:
                sample = found[number][1]
                likely = -math.inf if sample.log_probability is None else sample.log_probability
                return sample.answer is not None, likely, -number

            best, answer = results[0], None  # where it was cancelled before any sample began
            if found:
                best, sample = found[max(range(len(found)), key=score)]
                answer = sample.answer
            return Outcome(
                self.name,
                replace(best, answer=answer),
                temperature,
                samples=tuple(sample for _, sample in found),
                ended=ended,
            )

        return Attempt(rows.session, conclude, watch)
