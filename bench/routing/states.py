"""What a cascade knows once some arms have answered: who agrees, how long they wrote, what they say now."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from bench.routing.untrained import agree
from engine.predict.outcomes import Table
from router.policy import Array, Picks, picked

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class State:
    """After some arms have answered: features (Q, F), and whether the answer that stands is right, (Q,)."""

    features: Array
    right: Array


def state(table: Table, arms: Sequence[int], query: Array, trust: Array) -> State:
    """`query` (Q, F): features of the text. `trust` (A,): whose answer stands where votes tie."""
    stands = standing_arms(table, arms, trust)
    columns = []
    for a, b in combinations(arms, 2):
        columns.append(agree(table, a, b).astype(np.float64)[:, None])
    for arm in arms:
        wrote = np.log1p(table.new_tokens[:, arm])
        silent = np.array([said is None for said in table.answers[:, arm]], dtype=np.float64)
        columns.append(np.stack([wrote, silent], axis=1))
        sure = table.confidence[:, arm]
        if not np.isnan(sure).all():
            columns.append(np.nan_to_num(sure, nan=float(np.nanmean(sure)))[:, None])
    answers = [row[arm] for row, arm in zip(table.answers, stands, strict=True)]
    pairs = zip(answers, table.queries, strict=True)
    columns.append(np.array([number_features(answer, text) for answer, text in pairs]))
    # Before the query's: Performance keeps the leading columns as they are.
    return State(np.hstack([*columns, query]), picked(table.correct, stands))


def standing_arms(table: Table, arms: Sequence[int], trust: Array) -> Picks:
    """(Q,): an arm that gave the answer which most of them gave."""
    order = sorted(arms, key=lambda arm: -trust[arm])
    return np.array([standing([row[arm] for arm in order], order) for row in table.answers])


def standing(answers: Sequence[str | None], order: Sequence[int]) -> int:
    """The arm whose answer stands: most votes, then most trusted. Silence is no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return order[0]
    most = max(votes.values())
    return next(
        arm for arm, said in zip(order, answers, strict=True) if said is not None and votes[said] == most
    )


def number_features(answer: str | None, query: str) -> tuple[float, ...]:
    """Of an answer that is a number: that it is one, no whole one, its size, that the query holds it, and its
    size beside the query's greatest number. Zeros for any other answer.
    """
    try:
        value = math.fabs(_fraction(answer or ""))
    except ValueError:
        return (0.0,) * 5
    held = _held(query)
    size, greatest = math.log1p(value), math.log1p(max(held, default=0.0))
    return 1.0, float(value % 1 > 0), size, float(value in held), size - greatest


@lru_cache(maxsize=1 << 15)
def _held(query: str) -> tuple[float, ...]:
    """The numbers in a query. A study asks for the same ones at every stage of every fold."""
    return tuple(float(number.replace(",", "")) for number in _NUMBER.findall(query))


def _fraction(text: str) -> float:
    above, _, below = text.partition("/")
    if below and float(below) == 0:
        raise ValueError("nothing is divided by zero")
    return float(above) / float(below or 1)
