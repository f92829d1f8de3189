"""What there is to choose from: `arms.toml`, read strictly. An arm: model, technique and token budget."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from engine.answerers import Local, refusal
from engine.strategy.ask import Technique
from engine.strategy.server import Server
from engine.strict import made, read_toml

DEFAULT = Path(__file__).parent / "arms.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm(Technique):
    """A technique, with its token budget, on a model."""

    name: str
    model: str

    @property
    def family(self) -> str:
        """Of arms that differ in their token budget alone."""
        return f"{self.model}/{self.technique}/{self.directive}/{self.samples}/{self.temperature}/{self.stop}"


@dataclass(frozen=True, slots=True)
class Arms:
    """A checked file. `fallback`: the arm that answers where no estimator says which is the best.

    `memory_gb`: what the weights of local models may take together.
    """

    arms: tuple[Arm, ...]
    models: Mapping[str, Local | Server]
    fallback: str
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names:
            raise ValueError("arms: there is none")
        for at, arm in enumerate(self.arms):
            if arm.name in names[:at]:
                raise ValueError(f"arms[{at}]: name: another is called {arm.name!r}")
            if arm.model not in self.models:
                raise ValueError(f"arms[{at}]: model: there is none called {arm.model!r}")
            if problem := refusal(self.models[arm.model], arm):
                raise ValueError(f"arms[{at}]: {problem}")
        if self.fallback not in names:
            raise ValueError(f"fallback: no arm is called {self.fallback!r}")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError("memory_gb: must be above 0")

    @property
    def digest(self) -> str:
        """Of arms, models and weights: an estimator serves what it was calibrated for, and nothing else."""
        models = {name: model.identity() for name, model in self.models.items()}
        content = json.dumps([[asdict(arm) for arm in self.arms], models], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def load_arms(path: Path = DEFAULT) -> Arms:
    """Curves are looked for beside it. Raises `TokenjouleError` naming file, line and field."""
    return read_toml(path, partial(made, Arms), files=("curve",))
