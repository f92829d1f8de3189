"""Outcomes of a test bed's arms whose truth is known, with the readings beside them."""

from pathlib import Path

import numpy as np

from bench.routing import reading
from bench.routing.reading import Reading
from engine.predict.outcomes import Outcome, write_outcomes

ARMS = {"s/direct": (0.0, 1.0), "s/cot-16": (1.5, 10.0), "s/cot-64": (4.0, 40.0)}  # skill, joules
FACTS = 60  # different texts of each file, asked again and again


def outcomes(
    split: str, questions: int, seed: int, facts: int = FACTS
) -> tuple[list[Outcome], list[Reading]]:
    """How hard a question is stands in its first feature alone, and not in its text."""
    rng = np.random.default_rng(seed)
    made, read = [], []
    for q in range(questions):
        name, hard = f"chain/{split}{q}", float(rng.uniform(-3, 3))
        length = 1 + 0.1 * rng.random()
        for arm, (skill, joules) in ARMS.items():
            right = rng.random() < 1 / (1 + np.exp(3 * (hard - skill + 1)))
            made.append(
                Outcome(
                    question=name,
                    query=f"{split} {q % facts}",
                    category="search" if q % 2 else "chain",
                    arm=arm,
                    correct=int(right),
                    answer="1" if right else str(rng.integers(2, 5)),
                    prompt_tokens=10,
                    new_tokens=int(1 + joules),
                    energy_j=joules * length,
                    energy_source="operating curve, planted (not measured)",
                    elapsed_s=joules / 100,
                    confidence=0.5,
                )
            )
        read.append(
            Reading(
                name, split, "s", (hard, float(rng.random())), 10, 0.5, 0.4, "curve", 0.01, {"reading": None}
            )
        )
    return made, read


def write(folder: Path, split: str, questions: int, seed: int) -> Path:
    """Both files of a split."""
    path = folder / f"{split}.jsonl"
    made, read = outcomes(split, questions, seed)
    write_outcomes(path, made)
    for one in read:
        reading.append(reading.beside(path), one)
    return path
