"""Votes on stored samples: a fixed number, until the lead is certain, or until a window agrees.

Samples are taken in random orders, several for each question, so that no figure hangs on the order in the
file. Log-probabilities are not stored: a tie goes to the answer that came first.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.experiments.bootstrap import Interval, Resampled
from bench.replay.budgets import Counted
from bench.replay.joules import Joules
from engine.strategy.ballot import adaptive_stop, is_unanimous, majority

ORDERS = 50
FIXED = (1, 2, 4, 8, 16, 32, 64)
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)
WINDOWS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Rule:
    """`fixed` n, `adaptive` at a certainty (Adaptive Self-Consistency), `window` w in a row (ESC); `most` at
    all.
    """

    kind: str
    value: float
    most: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.value:g}" + ("" if self.kind == "fixed" else f", at most {self.most}")

    def taken(self, keys: Sequence[str | None]) -> int:
        """How many of the samples, in this order, are drawn."""
        most = min(self.most, len(keys))
        if self.kind == "fixed":
            return min(int(self.value), most)
        counts: Counter[str] = Counter()
        width = int(self.value)
        for drawn, key in enumerate(keys[:most], 1):
            if key is not None:
                counts[key] += 1
            if self.kind == "adaptive" and adaptive_stop(list(counts.values()), self.value):
                return drawn
            if self.kind == "window" and drawn % width == 0 and is_unanimous(keys[drawn - width : drawn]):
                return drawn
        return most


@dataclass(frozen=True)
class VotePoint:
    """Means over questions and orders: samples drawn, tokens of all of them, J; `right` with its interval."""

    rule: Rule
    questions: int
    right: Interval
    samples: float
    tokens: float
    energy_j: Interval
    undecided: float


def rules(samples: int) -> list[Rule]:
    """What to replay where every question has so many stored samples."""
    fixed = [Rule("fixed", n, samples) for n in FIXED if n <= samples]
    if samples not in FIXED:
        fixed.append(Rule("fixed", samples, samples))
    adaptive = [Rule("adaptive", threshold, samples) for threshold in THRESHOLDS]
    return fixed + adaptive + [Rule("window", width, samples) for width in WINDOWS if 2 * width <= samples]


def by_question(counted: Sequence[Counted]) -> Mapping[str, list[Counted]]:
    """In the order of the file."""
    found: dict[str, list[Counted]] = {}
    for one in counted:
        found.setdefault(one.trace.question, []).append(one)
    return found


def replay(
    questions: Mapping[str, Sequence[Counted]],
    rule: Rule,
    joules: Joules | None,
    *,
    seed: int = 0,
    orders: int = ORDERS,
) -> VotePoint:
    """The rule on every question, in `orders` random orders of its samples, the same for every rule."""
    columns: tuple[list[float], ...] = ([], [], [], [], [])
    for name, samples in questions.items():
        rng = random.Random(f"{seed}/{name}")
        sums = [0.0] * 5
        for _ in range(orders):
            order = rng.sample(list(samples), len(samples))
            taken = order[: rule.taken([one.trace.key for one in order])]
            ballot = majority([one.trace.key for one in taken], [None] * len(taken))
            won = ballot.winner is not None and taken[ballot.winner].trace.correct
            cost = sum(joules.of(one.prompt_tokens, one.new_tokens) for one in taken) if joules else 0.0
            each = (won, len(taken), sum(one.new_tokens for one in taken), cost, ballot.winner is None)
            sums = [total + value for total, value in zip(sums, each, strict=True)]
        for column, total in zip(columns, sums, strict=True):
            column.append(total / orders)
    right, drawn, tokens, spent, undecided = columns
    n = len(questions)
    resampled = Resampled(n)
    mean = lambda s: s[0] / n  # noqa: E731
    return VotePoint(
        rule=rule,
        questions=n,
        right=resampled.interval(mean, right),
        samples=sum(drawn) / n,
        tokens=sum(tokens) / n,
        energy_j=resampled.interval(mean, spent) if joules else Interval(None),
        undecided=sum(undecided) / n,
    )
