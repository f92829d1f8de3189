"""Models by name, on this machine or on servers: who reads a question, who answers, at what cost."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.energy.curve_store import content_digest, load_curve
from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.locate import locate
from engine.pool import Pool
from engine.predict.features import Array
from engine.predict.request_costs import Cost, by_curve
from engine.prefilled import Prefilled
from engine.reader import features, read, source
from engine.stop.names import AUTO, NONE
from engine.strategy.ask import Technique
from engine.strategy.said import Said, answer_here
from engine.strategy.server import Server, answer_there
from engine.weights_digest import weights_digest


@dataclass(frozen=True, slots=True)
class Local:
    """A model on this machine. `local`: "bundled:NAME", a Hugging Face directory or id, or "preset:NAME".
    `curve`: the file of its operating curve, in place of the one that is kept for it here.

    Raises `ValueError` naming the field that is wrong.
    """

    local: str
    quantize: str | None = None
    backend: str = "auto"
    random_weights: bool = False
    chat: bool = False
    curve: str | None = None

    def __post_init__(self) -> None:
        if self.curve is not None and not Path(self.curve).is_file():
            raise ValueError(f"curve: there is no file {self.curve}")
        if self.quantize not in (None, "none", "int8", "int4"):
            raise ValueError(f"quantize: {self.quantize!r} is none of none, int8, int4")
        if self.backend not in ("auto", "gpu", "cpu", "torch"):
            raise ValueError(f"backend: {self.backend!r} is none of auto, gpu, cpu, torch")

    def identity(self) -> dict[str, Any]:
        """What an answer by this model depends on: all of the above, the curve by what it holds, and the
        weights, where they are files here. One that has yet to be downloaded is known by its name alone.
        """
        weights = None
        if self.local.startswith("bundled:") or Path(self.local).expanduser().is_dir():
            with suppress(OSError, TokenjouleError):  # said when it is to be loaded
                directory = locate(self.local).directory
                weights = None if directory is None else weights_digest(directory)
        return {**asdict(self), "weights": weights, "curve": content_digest(self.curve)}

    def options(self) -> dict[str, Any]:
        """What `Engine.load` is told."""
        kept = {"quantize": self.quantize, "backend": self.backend, "random_weights": self.random_weights}
        return {"model": self.local, "curve": self.curve or "auto", **kept}


def refusal(model: Local | Server, way: Technique) -> str:
    """Why a model is not asked in that way, naming the field; "" where it is.

    "auto" is held to the rule of a named curve: whatever else it might be here would be another arm. Raises
    `TokenjouleError` for a file that holds no curve.
    """
    if way.stop == NONE:
        return ""
    if isinstance(model, Server):
        return "stop: local models alone can be stopped"
    if way.stop != AUTO:
        return ""
    if model.curve is None:
        return "stop: auto is the stopping rule of an operating curve, and the model names no curve"
    held = load_curve(Path(model.curve)).stopping is not None
    return "" if held else f"stop: auto is the stopping rule of a curve, and {model.curve} holds none"


class Answerers:
    """Use it in a `with`: its `pool` holds engines. `memory_gb`: for the weights of local models."""

    def __init__(
        self,
        models: Mapping[str, Local | Server],
        *,
        energy_source: str = "auto",
        memory_gb: float | None = None,
    ) -> None:
        local = {name: model.options() for name, model in models.items() if isinstance(model, Local)}
        self.pool = Pool(local, energy_source=energy_source, memory_gb=memory_gb)
        self._models = models
        self._reader: str | None = None
        self._costs: dict[tuple[str, int], Cost | None] = {}  # of servers, whose curves are files

    def __enter__(self) -> "Answerers":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def reader(self) -> Engine:
        """The smallest local model, which reads queries. Raises `TokenjouleError` where there is none."""
        if self._reader is None:
            self._reader = self.pool.smallest()
        if self._reader is None:
            raise TokenjouleError("there is no local model to read queries")
        return self.pool.engine(self._reader)

    def meter_j(self) -> float:
        """What the reader's meter says now; only differences mean anything. Raises `TokenjouleError`."""
        return self.reader().poller.poll().energy_uj / 1e6

    def source(self) -> str:
        """Of the features that a query as read has. Raises `TokenjouleError`."""
        return source(self.reader())

    def read(self, query: str) -> Prefilled:
        """By the smallest local model. Raises `TokenjouleError`, `ReadError` with the joules it took."""
        engine, model = self.reader(), self._models[self._reader or ""]
        return read(engine, query, chat=isinstance(model, Local) and model.chat)

    def features(self, query: str, known: Prefilled | None = None) -> Array:
        """(F,), of a query as it was read; where it was not, it is read. Raises `TokenjouleError`."""
        return features(self.reader(), query, known or self.read(query))

    def is_local(self, name: str) -> bool:
        """Whether a model runs on this machine, and so can be cut at a joule."""
        return isinstance(self._models[name], Local)

    def answer(
        self,
        name: str,
        question: str,
        way: Technique,
        *,
        budget_tokens: int,
        budget_joules: float | None = None,
        deadline_s: float | None = None,
        known: Prefilled | None = None,
        seed: int = 0,
    ) -> Said:
        """Nothing is raised. `known`: the question as `read` gave it, for the model that read it.

        `budget_joules` holds for local models, `deadline_s` for servers; None: a server's own time-out.
        """
        model = self._models[name]
        if isinstance(model, Server):
            within_s = model.timeout_s if deadline_s is None else deadline_s
            return answer_there(
                model, question, way, budget_tokens=budget_tokens, deadline_s=within_s, seed=seed
            )
        try:
            engine = self.pool.engine(name)
        except TokenjouleError as error:
            return Said(energy_j=0.0, error=str(error))
        return answer_here(
            engine,
            question,
            way,
            chat=model.chat,
            budget_tokens=budget_tokens,
            budget_joules=budget_joules,
            known=known if known is not None and known.model is engine.model else None,
            seed=seed,
        )

    def cost(self, name: str, way: Technique) -> Cost | None:
        """By a loaded engine's operating curve, or what the server is said to take; None where not known."""
        model, samples = self._models[name], way.samples
        if isinstance(model, Server):
            if (name, samples) not in self._costs:
                self._costs[name, samples] = model.cost(samples)
            return self._costs[name, samples]
        engine = self.pool.loaded.get(name)
        curve = None if engine is None else engine.predictor.curve
        return None if curve is None else by_curve(curve, samples)
