"""What a cascade knows once some arms have answered: who agrees, how long they wrote, what they say now."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.routing.untrained import agree
from router.outcomes import Table
from router.policy import Array


@dataclass(frozen=True)
class State:
    """After `arms` have answered: features (Q, F), and whether the answer that stands is right, (Q,)."""

    arms: tuple[int, ...]
    features: Array
    right: Array


def state(table: Table, arms: Sequence[int], query: Array, trust: Array) -> State:
    """`query` (Q, F): features of the text. `trust` (A,): whose answer stands where votes tie."""
    columns = []
    for a, b in combinations(arms, 2):
        columns.append(agree(table, a, b).astype(np.float64)[:, None])
    for arm in arms:
        wrote = np.log1p(table.new_tokens[:, arm])
        silent = np.equal(table.answers[:, arm], None).astype(np.float64)  # type: ignore[call-overload]
        columns.append(np.stack([wrote, silent], axis=1))
        sure = table.confidence[:, arm]
        if not np.isnan(sure).all():
            columns.append(np.nan_to_num(sure, nan=float(np.nanmean(sure)))[:, None])
    # Before the query's: Performance keeps the leading columns as they are.
    return State(tuple(arms), np.hstack([*columns, query]), standing_right(table, arms, trust))


def standing_right(table: Table, arms: Sequence[int], trust: Array) -> Array:
    """(Q,): whether the answer that most of the arms gave is right."""
    order = sorted(arms, key=lambda arm: -trust[arm])
    return np.array(
        [
            table.correct[q, standing([row[arm] for arm in order], order)]
            for q, row in enumerate(table.answers)
        ]
    )


def standing(answers: Sequence[str | None], order: Sequence[int]) -> int:
    """The arm whose answer stands: most votes, then most trusted. Silence is no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return order[0]
    most = max(votes.values())
    return next(
        arm for arm, said in zip(order, answers, strict=True) if said is not None and votes[said] == most
    )
