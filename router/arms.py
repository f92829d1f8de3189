"""What there is to choose from: `arms.toml`, read strictly. An arm: model, technique and token budget."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import TokenjouleError
from engine.strategy.ask import Technique
from engine.strict import made

DEFAULT = Path(__file__).parent / "arms.toml"


@dataclass(frozen=True, slots=True)
class Model:
    """Here or there. `local`: "bundled", a Hugging Face directory or id, or "preset:NAME".

    `base_url`: of an OpenAI-compatible server; `served`: the model's name there; `api_key_env`: the variable
    of the environment that holds its key; `retries`: on top of the first try. Its joules: by the file of an
    operating `curve`, or `joules_per_token` (the paper's Eq. 1).
    """

    local: str | None = None
    quantize: str | None = None
    backend: str = "auto"
    random_weights: bool = False
    chat: bool = False
    base_url: str | None = None
    served: str = ""
    api_key_env: str | None = None
    curve: str | None = None
    joules_per_token: float | None = None
    timeout_s: float = 30.0
    retries: int = 1

    def __post_init__(self) -> None:
        if (self.local is None) == (self.base_url is None):
            raise ValueError("local: a model has one of local and base_url")
        if self.quantize not in (None, "none", "int8", "int4"):
            raise ValueError(f"quantize: {self.quantize!r} is none of none, int8, int4")
        if self.backend not in ("auto", "gpu", "cpu", "torch"):
            raise ValueError(f"backend: {self.backend!r} is none of auto, gpu, cpu, torch")
        if self.base_url is not None and not self.served:
            raise ValueError("served: missing, the model's name on the server")
        for name in ("timeout_s", "joules_per_token"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0")
        if self.retries < 0:
            raise ValueError("retries: must be at least 0")

    def options(self) -> dict[str, Any]:
        """Of a local one, what `Engine.load` is told."""
        where = None if self.local == "bundled" else self.local
        kept = {"quantize": self.quantize, "backend": self.backend, "random_weights": self.random_weights}
        return {"model": where, **kept}


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
    models: Mapping[str, Model] = field(default_factory=dict)
    fallback: str = ""
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names:
            raise ValueError("arms: there is none")
        for number, arm in enumerate(self.arms, 1):
            if arm.name in names[: number - 1]:
                raise ValueError(f"arm {number}: name: another is called {arm.name!r}")
            if arm.model not in self.models:
                raise ValueError(f"arm {number}: model: there is none called {arm.model!r}")
            if arm.way.technique == "vote" and self.models[arm.model].local is None:
                raise ValueError(f"arm {number}: technique: votes are for local models")
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
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, ValueError) as error:  # a TOML error tells its line
        raise TokenjouleError(f"{path}: {error}") from error

    def checked(kind: Any, raw: Any, table: str = "", nth: int = 0) -> Any:
        try:
            return made(kind, raw)
        except ValueError as error:
            problem = str(error).replace("way.", "")
            where = f"{path}, line {_line(text, table, nth, problem)}"
            raise TokenjouleError(": ".join(filter(None, (where, table, problem)))) from error

    models, arms = content.pop("models", {}), content.pop("arms", [])
    if not isinstance(models, dict) or not isinstance(arms, list):
        raise TokenjouleError(f"{path}: models are tables [models.NAME], arms are tables [[arms]]")
    content["models"] = {name: checked(Model, raw, f"models.{name}") for name, raw in models.items()}
    content["arms"] = []
    for nth, raw in enumerate(arms):
        way = {key: value for key, value in raw.items() if key not in ("name", "model")}
        named = {key: value for key, value in raw.items() if key in ("name", "model")}
        content["arms"].append(checked(Arm, {**named, "way": way}, "arms", nth))
    try:
        return Arms(arms=tuple(content.pop("arms")), **content)
    except (TypeError, ValueError) as error:
        at = re.match(r"arm (\d+)", str(error))
        place = _line(text, "arms", int(at[1]) - 1, str(error)) if at else _line(text, "", 0, str(error))
        raise TokenjouleError(f"{path}, line {place}: {error}") from error


def _line(text: str, table: str, nth: int, problem: str) -> int:
    """Where the first field that `problem` names stands in the `nth` such table, or where that begins."""
    headers = list(re.finditer(rf"^\s*\[+\s*{re.escape(table)}\s*\]+", text, re.MULTILINE)) if table else []
    start, end = (headers[nth].start(), headers[nth].end()) if headers else (0, 0)
    following = re.compile(r"^\s*\[", re.MULTILINE).search(text, end)
    inside = text[start : following.start() if following else len(text)]
    for word in re.findall(r"\w+", problem):
        if found := re.search(rf"^\s*{word}\s*=", inside, re.MULTILINE):
            return text.count("\n", 0, start + found.end()) + 1
    return text.count("\n", 0, end) + 1
