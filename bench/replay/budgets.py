"""Accuracy against a token budget, on texts that were never cut: right at b only if finished within b.

A text longer than b is censored: what an answer forced there would have been is not known. So the share of
right answers is a lower bound of what a model with a good forced answer reaches, and it says where texts end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.experiments.bootstrap import Interval, Resampled
from bench.replay.joules import Joules
from bench.replay.traces import Trace

BUDGETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Counted:
    """A trace and its tokens."""

    trace: Trace
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class BudgetPoint:
    """At a budget of `budget` tokens, None for no budget: shares of all questions, means per question.

    `right`: finished and right. `finished_right`: of those finished. `unanswered`: finished, without an
    answer that can be read.
    """

    budget: int | None
    questions: int
    right: Interval
    finished: float
    finished_right: float | None
    unanswered: float
    tokens: float
    energy_j: Interval


def curve(
    counted: Sequence[Counted], joules: Joules | None, budgets: Sequence[int] = BUDGETS
) -> list[BudgetPoint]:
    """A point for each budget that is shorter than the longest text, and one without a budget."""
    longest = max(one.new_tokens for one in counted)
    resampled = Resampled(len(counted))
    return [
        _point(counted, joules, budget, resampled) for budget in [*(b for b in budgets if b < longest), None]
    ]


def _point(
    counted: Sequence[Counted], joules: Joules | None, budget: int | None, resampled: Resampled
) -> BudgetPoint:
    n = len(counted)
    finished = [budget is None or one.new_tokens <= budget for one in counted]
    right = [float(ended and one.trace.correct) for ended, one in zip(finished, counted, strict=True)]
    spent = [one.new_tokens if budget is None else min(one.new_tokens, budget) for one in counted]
    energy = Interval(None)
    if joules is not None:
        each = [joules.of(one.prompt_tokens, tokens) for one, tokens in zip(counted, spent, strict=True)]
        energy = resampled.interval(lambda s: s[0] / n, each)
    return BudgetPoint(
        budget=budget,
        questions=n,
        right=resampled.interval(lambda s: s[0] / n, right),
        finished=sum(finished) / n,
        finished_right=sum(right) / sum(finished) if any(finished) else None,
        unanswered=sum(e and one.trace.answer is None for e, one in zip(finished, counted, strict=True)) / n,
        tokens=sum(spent) / n,
        energy_j=energy,
    )
