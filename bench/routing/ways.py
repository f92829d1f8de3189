"""The arms of the test bed: a model that answers at once, thinks for so many tokens at most, or votes.

Thinking is sampled at temperature 1 and answers are read greedily, as in the experiments on stopping, so that
an arm of a token budget is the same here and there. Which arm a name means is told by the name alone:
`testbed-s/direct`, `testbed-s/cot-64`, `testbed-s/vote-5-128`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import UsageError
from engine.strategy.samples import check_samples

BUDGETS = (16, 32, 64, 128)
VOTE_BUDGETS = (32, 64, 128)
SAMPLES = 5
_NAME = re.compile(r"(?P<model>.+)/(?:direct|cot-(?P<cot>\d+)|vote-(?P<samples>\d+)-(?P<vote>\d+))")


@dataclass(frozen=True, slots=True)
class Way:
    """`budget_tokens`: of thinking, for each of `samples`; 0 answers at once."""

    budget_tokens: int = 0
    samples: int = 1

    @property
    def family(self) -> str:
        """What it has in common with ways that differ in token budget alone."""
        if self.samples > 1:
            return f"vote-{self.samples}"
        return "cot" if self.budget_tokens else "direct"

    @property
    def name(self) -> str:
        return f"{self.family}-{self.budget_tokens}" if self.budget_tokens else self.family


def ways(
    budgets: Sequence[int] = BUDGETS, votes: Sequence[int] = VOTE_BUDGETS, samples: int = SAMPLES
) -> tuple[Way, ...]:
    """At once, one thought within each of `budgets`, and a vote of thoughts within each of `votes`. Raises
    `UsageError`.
    """
    for given in (budgets, votes):
        if not given or min(given) < 1 or len(set(given)) < len(given):
            raise UsageError(f"token budgets are different numbers of at least 1, not {list(given)}")
    check_samples(samples)
    if samples < 2:
        raise UsageError("a vote needs 2 samples or more")
    return (Way(), *map(Way, sorted(budgets)), *(Way(tokens, samples) for tokens in sorted(votes)))


def arm_name(model: str, way: Way) -> str:
    """`model`: a name without a folder in front of it."""
    return f"{model}/{way.name}"


def parsed(arm: str) -> tuple[str, Way]:
    """(model, way) of an arm's name. Raises `UsageError` for another name."""
    found = _NAME.fullmatch(arm)
    if found is None:
        raise UsageError(f"{arm!r} is no arm of the test bed: MODEL/direct, MODEL/cot-B or MODEL/vote-K-B")
    budget = found["cot"] or found["vote"]
    return found["model"], Way(int(budget or 0), int(found["samples"] or 1))
