"""What there is to choose from: `arms.toml`, read strictly. An arm: model, technique and token budget."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.answerers import Local
from engine.strategy.ask import Technique
from engine.strategy.server import Server
from engine.strict import made, read_toml

DEFAULT = Path(__file__).parent / "arms.toml"


@dataclass(frozen=True, slots=True)
class Arm:
    """`way`: the technique, with its token budget. `family`: of arms that differ in that alone."""

    name: str
    model: str
    way: Technique

    @property
    def family(self) -> str:
        return f"{self.model}/{self.way.technique}/{self.way.directive}/{self.way.samples}"


@dataclass(frozen=True, slots=True)
class Arms:
    """A checked file. `fallback`: the arm that answers where no estimator says which is the best.

    `memory_gb`: what the weights of local models may take together.
    """

    arms: tuple[Arm, ...]
    models: Mapping[str, Local | Server] = field(default_factory=dict)
    fallback: str = ""
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
            if arm.way.technique == "vote" and isinstance(self.models[arm.model], Server):
                raise ValueError(f"arms[{at}]: technique: votes are for local models")
        if self.fallback not in names:
            raise ValueError(f"fallback: no arm is called {self.fallback!r}")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError("memory_gb: must be above 0")

    @property
    def digest(self) -> str:
        """Of arms and models: an estimator serves the arms that it was calibrated for, and no others."""
        content = json.dumps([asdict(self)["arms"], asdict(self)["models"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def load_arms(path: Path = DEFAULT) -> Arms:
    """Raises `TokenjouleError` naming file, line and field."""
    return read_toml(path, _arms)


def _arms(content: dict[str, Any]) -> Arms:
    """In the file a technique's fields stand beside its arm's own."""
    arms = content.get("arms", [])
    if isinstance(arms, list) and all(isinstance(arm, dict) for arm in arms):
        own = ("name", "model")
        arms = [
            {
                **{key: arm[key] for key in own if key in arm},
                "way": {key: value for key, value in arm.items() if key not in own},
            }
            for arm in arms
        ]
    try:
        return made(Arms, {**content, "arms": arms})
    except ValueError as error:
        raise ValueError(str(error).replace(".way", "")) from error
