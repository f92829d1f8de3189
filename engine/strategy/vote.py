"""Majority voting: samples of one prompt decoded as one batch, and no more of them than the vote needs.

Answers of one token are voted from one forward's distribution instead: 16 draws cost one direct answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.result import Generation
from engine.steps import Step
from engine.strategy.ballot import TIE_RULE, adaptive_stop, is_decided, is_unanimous, majority, pays
from engine.strategy.base import Attempt, Outcome, Sample, row_j
from engine.strategy.choices import check_answers
from engine.strategy.direct import ReadChoices, begin_choices
from engine.strategy.samples import ALL_DRAWN, Read, Samples, as_written, check_samples

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt


class Until(StrEnum):
    """When sampling ends before all samples are drawn; see `Vote`."""

    ALL = "all"
    DECIDED = "decided"
    POSTERIOR = "posterior"
    UNANIMOUS = "unanimous"
    PRICE = "price"


_IN_WAVES = (Until.POSTERIOR, Until.UNANIMOUS, Until.PRICE)


@dataclass(frozen=True, slots=True)
class Vote:
    """`samples` rows that fork one prefill (`independent`: each computes the prompt by itself).

    `until`: "all" samples to their end; "decided", the rows that run are cancelled once the others have made
    a majority that they could not change; or in waves of `wave` rows, until the lead is certain by the
    "posterior" (95 %), a wave is "unanimous", or no number of further samples is expected to gain
    `price_joules` accuracy points a joule ("price"). What a sample costs is what those of the last wave did.
    Under a joule budget no more rows begin together than it is predicted to hold answers of, one at least,
    and no further wave that it may not hold; the outcome says how many of the samples that made.

    `choices`: answers of one token each, drawn from the distribution behind the prompt, thinking closed.
    """

    samples: int = 16
    choices: tuple[str, ...] = ()
    until: Until = Until.DECIDED
    wave: int = 4
    price_joules: float | None = None
    independent: bool = False
    read: Read = as_written
    name: str = "vote"
    streams: bool = False

    def __post_init__(self) -> None:
        check_samples(self.samples)
        check_samples(self.wave)
        if self.choices:
            check_answers(self.choices)
            if self.until in _IN_WAVES or self.independent:
                raise UsageError(
                    "a vote among choices is drawn from one forward: nothing is saved by fewer draws"
                )
        if (self.price_joules is not None) != (self.until is Until.PRICE):
            raise UsageError(
                "a vote until its price is reached needs a price per joule, and no other takes one"
            )
        if self.price_joules is not None and not 0 <= self.price_joules < math.inf:
            raise UsageError(f"a price per joule must be a number of at least 0, not {self.price_joules}")

    def begin(self, engine: "Engine", prompt: "Prompt", **options: Any) -> Attempt:
        if self.choices:
            return begin_choices(engine, prompt, self.choices, self._of_choices, **options)
        temperature = options.get("temperature", 0.0)
        rows = Samples.begin(
            engine,
            prompt,
            self.samples,
            self.read,
            strategy=self.name,
            share_prompts=not self.independent,
            rows_at_once=self.wave if self.until in _IN_WAVES else None,
            **options,
        )
        watch = Watch(self, rows)

        def conclude(results: Sequence[Generation]) -> Outcome:
            found = rows.settled(results)
            ballot = majority([s.answer for _, s in found], [s.log_probability for _, s in found])
            result = results[0] if ballot.winner is None else found[ballot.winner][0]
            return Outcome(
                self.name,
                replace(result, answer=ballot.answer),
                temperature,
                samples=tuple(sample for _, sample in found),
                votes=ballot.votes,
                tie_rule=TIE_RULE,
                tied=ballot.tied,
                ended=watch.ended,
            )

        return Attempt(rows.session, conclude, watch)

    def _of_choices(self, read: ReadChoices) -> Outcome:
        drawn = read.draw(self.samples)
        scores = [read.log_probability(answer) for answer in drawn]
        ballot = majority(drawn, scores)
        assert ballot.answer is not None, "every draw is an answer"
        result = read.as_answer(ballot.answer)
        energy_j = row_j(result)
        each_j = None if energy_j is None else energy_j / self.samples
        samples = [
            Sample((read.choices.token_id(answer),), answer, answer, str(result.stop.reason), each_j, score)
            for answer, score in zip(drawn, scores, strict=True)
        ]
        return Outcome(
            self.name,
            result,
            read.sampling.temperature,
            samples=tuple(samples),
            votes=ballot.votes,
            tie_rule=TIE_RULE,
            tied=ballot.tied,
            probabilities=read.probabilities,
            ended="drawn from one forward",
        )


class Watch:
    """Hears of every token of a vote; cancels what is not needed any more."""

    def __init__(self, vote: Vote, rows: Samples) -> None:
        self._vote, self._rows = vote, rows
        self.ended = ALL_DRAWN

    def __call__(self, step: Step) -> None:
        before = len(self._rows.answers)
        wave_over = self._rows.catch_up(step)
        ended = len(self._rows.answers)
        if ended in (before, self._vote.samples):
            return
        left = self._vote.samples - ended
        if self._vote.until is not Until.ALL and is_decided(self._counts(), left):
            self._end("decided: the others could not change the majority")
        elif wave_over:
            self._after_wave(step, left)

    def _after_wave(self, step: Step, left: int) -> None:
        vote, rows, counts = self._vote, self._rows, self._counts()
        latest = list(rows.answers.values())[-vote.wave :]  # of a budget's smaller waves, several
        if vote.until is Until.POSTERIOR and adaptive_stop(counts):
            self._end("posterior: the lead is certain to 95 %")
        elif vote.until is Until.UNANIMOUS and len(latest) == vote.wave and is_unanimous(latest):
            self._end("unanimous: the last wave agreed")
        elif vote.price_joules is not None and not pays(
            counts, left, rows.wave_j / rows.wave, vote.price_joules
        ):
            self._end("price: no further sample is expected to be worth its joules")
        elif why := rows.over_budget(step):
            self._end(why)

    def _end(self, why: str) -> None:
        self.ended = why
        self._rows.cancel_others()

    def _counts(self) -> list[int]:
        answers = [answer for answer in self._rows.answers.values() if answer is not None]
        return [answers.count(answer) for answer in dict.fromkeys(answers)]
