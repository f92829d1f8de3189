"""A model that reads queries before anyone answers them: which layers it tells of, and what reading tells."""

from typing import TYPE_CHECKING

from engine.predict.features import Array, prefill_features
from engine.prefilled import Prefilled, prefill

if TYPE_CHECKING:
    from engine.engine import Engine


def source(engine: "Engine") -> str:
    """Which features a prefill's are: of which model, in what form, and which layers' states."""
    card = engine.origin.card
    return f"{card.id}/{card.parameters}/{card.quantization}/{','.join(map(str, layers(engine)))}"


def layers(engine: "Engine") -> tuple[int, ...]:
    """Two in the middle: a third and two thirds of the way."""
    count = engine.model.config.n_layers
    return tuple(sorted({count // 3, 2 * count // 3}))


def read(engine: "Engine", query: str, *, chat: bool = False) -> Prefilled:
    """To be reused. Raises `TokenjouleError` where the query does not fit."""
    return prefill(engine, query, layers(engine), chat=chat)


def features(engine: "Engine", query: str, found: Prefilled) -> Array:
    """(F,), of a query that the engine has read."""
    return prefill_features(query, found, layers(engine))
