"""Questions whose truth is planted: how likely each arm is right, how long it writes, what that costs."""

from dataclasses import dataclass

import numpy as np

from engine.predict.outcomes import Table
from router.policy import Array

ARMS = ("small", "middle", "large")


@dataclass(frozen=True)
class Planted:
    table: Table
    p: Array


def plant(rng: np.random.Generator, count: int, *, width: int = 8, confident: bool = True) -> Planted:
    """The first features decide, others are noise. Joules 1 : 3 : 10, times a factor of each request's."""
    x = rng.normal(size=(count, width))
    z = np.stack([x[:, 0], 1 + x[:, 0] + 0.5 * x[:, 1], 2 + 0.3 * x[:, 1]], axis=1)
    p = 1 / (1 + np.exp(-z))
    right = (rng.random(p.shape) < p).astype(float)
    prompt = np.round(np.exp(3 + 0.2 * x[:, 2:3])) * np.ones((1, 3))
    new = np.round(np.exp(4 + 0.4 * x[:, 3:4] + 0.3 * rng.normal(size=p.shape)))
    joules = (0.02 * prompt + new * 0.05 * np.array([1.0, 3.0, 10.0])) * np.exp(
        0.1 * rng.normal(size=p.shape)
    )
    noise = rng.normal(size=p.shape)
    confidence = 1 / (1 + np.exp(-(2 * right - 1 + noise))) if confident else np.full(p.shape, np.nan)

    def texts(values: list[str]) -> np.ndarray:
        return np.array(values, dtype=object)

    table = Table(
        arms=ARMS,
        questions=texts([f"q{n}" for n in range(count)]),
        queries=texts([f"question {n}" for n in range(count)]),
        categories=texts([("easy", "hard")[int(v < 0)] for v in x[:, 0]]),
        answers=np.full(p.shape, "x", dtype=object),
        correct=right,
        energy_j=joules,
        elapsed_s=joules / 10,
        prompt_tokens=prompt,
        new_tokens=new,
        confidence=confidence,
        features=x,
    )
    return Planted(table, p)
