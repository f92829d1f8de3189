"""Outcomes whose truth is known: how hard a question is stands in its length."""

import numpy as np

from bench.routing.split import Prepared, prepared
from engine.predict.outcomes import Outcome, Table

ARMS = {"small": (0.0, 10.0), "peer": (0.0, 12.0), "large": (2.5, 100.0)}  # skill, joules


def outcomes(questions: int = 400, seed: int = 0, *, distinct: bool = False) -> list[Outcome]:
    """Hard questions are long ones. An arm that is wrong says one of three wrong things.

    `distinct`: no two questions have one text; else those of one length have.
    """
    rng = np.random.default_rng(seed)
    made = []
    for q in range(questions):
        words = int(rng.integers(4, 60))
        hard = (words - 30) / 10
        for arm, (skill, joules) in ARMS.items():
            right = rng.random() < 1 / (1 + np.exp(hard - skill - 1))
            made.append(
                Outcome(
                    question=f"q{q}",
                    query="what is it " + "and " * words + (str(q) if distinct else ""),
                    category="even" if q % 2 else "odd",
                    arm=arm,
                    correct=int(right),
                    answer="right" if right else f"wrong {rng.integers(3)}",
                    prompt_tokens=words,
                    new_tokens=20 + words,
                    energy_j=joules * (20 + words) / 50,
                    energy_source="table: planted",
                )
            )
    return made


def data(questions: int = 400, seed: int = 0, *, distinct: bool = False) -> Prepared:
    return prepared(Table.of(outcomes(questions, seed, distinct=distinct)))
