"""What a study of single-shot joules runs: the sizes, how long each repeat takes, how long everything."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from bench.curve_requests import Size
from engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Plan:
    """`prompts` × `new_tokens` are the sizes; new tokens of which one is twice another are differenced, too.

    `truth_s` and `truth_ticks`: of every repeated piece, the longer counts. `pool`: requests behind the power
    model, at most `pool_share` of the time. `idle_s`: before a single request, up to twice that. `shams`:
    idle stretches that are booked as work. `total_s`: of everything.
    """

    prompts: tuple[int, ...]
    new_tokens: tuple[int, ...]
    truth_s: float = 5.0
    truth_ticks: int = 50
    pool: int = 30
    pool_share: float = 0.25
    idle_s: float = 0.6
    shams: int = 5
    total_s: float = 300.0

    @property
    def sizes(self) -> list[Size]:
        return [Size(prompt, new, 1) for prompt, new in product(self.prompts, self.new_tokens)]


PROMPTS, NEW_TOKENS = (64, 181, 512, 1448, 4096), (16, 64, 128, 256)


def fitted_to(plan: Plan, context: int) -> Plan:
    """The same, new tokens halved until they fill half of the context at most, prompts within the rest.

    Prompts then lie evenly in their logarithm. Raises `UsageError` where no sizes fit that differ.
    """
    new_tokens = plan.new_tokens
    while max(new_tokens) > context / 2:
        new_tokens = tuple(new // 2 for new in new_tokens)
    longest = context - max(new_tokens)
    if min(new_tokens) < 2 or len(set(new_tokens)) < len(plan.new_tokens) or longest < 8:
        raise UsageError(f"a context of {context} tokens has no room for requests of different sizes")
    if longest >= max(plan.prompts):
        return replace(plan, new_tokens=new_tokens)
    least = min(min(plan.prompts), longest // 4)
    prompts = tuple(round(float(p)) for p in np.geomspace(least, longest, len(plan.prompts)))
    return replace(plan, prompts=prompts, new_tokens=new_tokens)
