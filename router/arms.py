"""What there is to choose from: `arms.toml`, read strictly. An arm: a model, a technique and a token budget."""

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

    `base_url`: an OpenAI-compatible server's; `served`: the model's name there; `api_key_env`: the environment
    variable that holds its key; `retries`: on top of the first try. Its joules: by an operating `curve`'s
    file, or `joules_per_token` (the paper's Eq. 1).
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
    """`way`: technique and budget. `family`: arms that differ in token budget alone."""

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
        if not names or len(set(names)) < len(names):
            raise ValueError("arms: there is none, or two have one name")
        if self.fallback not in names:
            raise ValueError(f"fallback: no arm is called {self.fallback!r}")

    @property
    def digest(self) -> str:
        """Of arms and models: an estimator serves the arms that it was calibrated for, and no others."""
        content = json.dumps([asdict(self)["arms"], asdict(self)["models"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def load_arms(path: Path = DEFAULT) -> Arms:
    """Raises `TokenjouleError` naming file, line and field."""
    table, nth, text = "", 0, ""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
        models, arms = content.pop("models", {}), content.pop("arms", [])
        read: dict[str, Any] = {"models": {}, "arms": []}
        for name, raw in models.items():
            table, nth = f"models.{name}", 0
            read["models"][name] = made(Model, raw)
        for nth, raw in enumerate(arms):
            table = "arms"
            way = {key: value for key, value in raw.items() if key not in ("name", "model")}
            arm = Arm(
                made(str, raw.get("name"), "name"), made(str, raw.get("model"), "model"), made(Technique, way)
            )
            if arm.model not in models:
                raise ValueError(f"model: no model is called {arm.model!r}; there are {', '.join(models)}")
            if arm.way.technique == "vote" and read["models"][arm.model].local is None:
                raise ValueError("technique: votes are for local models, whose samples share a prefill")
            read["arms"].append(arm)
        table, nth = "", 0
        settings = made(_Settings, content)
        return Arms(tuple(read["arms"]), read["models"], settings.fallback, settings.memory_gb)
    except (OSError, ValueError) as error:  # a TOML error tells its line
        where = (
            str(path)
            if isinstance(error, OSError | tomllib.TOMLDecodeError | UnicodeDecodeError)
            else (f"{path}, line {_line(text, table, nth, str(error))}{f': {table}' if table else ''}")
        )
        raise TokenjouleError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Settings:
    fallback: str
    memory_gb: float | None = None


def _line(text: str, table: str, nth: int, problem: str) -> int:
    """Where the first field that `problem` names stands in the `nth` of these tables, or where that begins."""
    headers = list(re.finditer(rf"^\s*\[+\s*{re.escape(table)}\s*\]+", text, re.MULTILINE)) if table else []
    start = headers[min(nth, len(headers) - 1)].start() if headers else 0
    ends = re.compile(r"^\s*\[", re.MULTILINE).search(text, headers[nth].end() if headers else 0)
    inside = text[start : ends.start() if ends else len(text)]
    for word in re.findall(r"\w+", problem):
        if found := re.search(rf"^\s*{word}\s*=", inside, re.MULTILINE):
            return text.count("\n", 0, start + found.end()) + 1
    return text.count("\n", 0, start) + 1
