"""The models of the test bed by name: shape, schedule, and everything else that decides the weights."""

import math
from dataclasses import dataclass
from typing import Any

from bench.testbed.chain import OPERATIONS
from bench.train.examples import FIRST_LENGTH

CONTEXT = 256
WARMUP_STEPS = 100
GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama model with tied embeddings. `stored_as`: dtype of the file."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    mlp_size: int
    stored_as: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights, besides the machine. `batch`: sequences per optimizer step.

    `curriculum`: chains grow to 8 operations over this share of the run, as single steps are learned soonest
    where nothing else is asked. `start`: SHA-256 of the weights file that the run starts from, None for
    random ones; there the chains are as long as they get from the first step. A start of fewer blocks is
    deepened.
    """

    name: str
    steps: int
    batch: int
    micro_batches: int
    learning_rate: float
    weight_decay: float = 0.05
    seed: int = 0
    workers: int = 1  # processes that share a batch, of one thread each
    device: str = "cpu"
    curriculum: float = 0.25
    start: str | None = None

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise ValueError(f"unknown model {self.name!r}; there are {', '.join(SHAPES)}")
        for field in ("steps", "batch", "micro_batches", "workers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, found {getattr(self, field)}")
        if not self.learning_rate > 0:
            raise ValueError(f"the learning rate must be above 0, found {self.learning_rate:g}")
        if self.batch % self.micro_batches:
            raise ValueError(f"batch {self.batch} does not divide into {self.micro_batches} micro-batches")
        if self.micro_batches % self.workers:
            raise ValueError(f"{self.micro_batches} micro-batches do not divide among {self.workers} workers")
        if self.workers > 1 and self.device != "cpu":
            raise ValueError(f"several workers share a CPU, not {self.device}")

    @property
    def shape(self) -> Shape:
        return SHAPES[self.name]

    def longest_at(self, step: int) -> int:
        """The curriculum: the most operations a chain has at this step."""
        growing = self.curriculum * self.steps
        progress = 1.0 if self.start or step >= growing else step / growing
        return FIRST_LENGTH + math.floor(progress * (OPERATIONS[-1] - FIRST_LENGTH))

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero at the last step."""
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


SHAPES = {
    # 0.94 M parameters, 3.7 MB: an hour from random weights on two cores of a CPU.
    "S": Shape(hidden_size=128, layers=5, heads=4, kv_heads=2, mlp_size=352, stored_as="float32"),
    # 1.86 M parameters, 7.4 MB: S, and copies of its blocks behind them.
    "L": Shape(hidden_size=128, layers=10, heads=4, kv_heads=2, mlp_size=352, stored_as="float32"),
}


def recipe(name: str, steps: int, **fields: Any) -> Recipe:
    """The recipe of a model by name; `fields` as of `Recipe`. Raises `ValueError` for an unknown one."""
    rate = 4e-3 if fields.get("start") else 8e-3  # half, where there is something to be forgotten
    return Recipe(name, steps, 64, 8, **{"learning_rate": rate, **fields})
