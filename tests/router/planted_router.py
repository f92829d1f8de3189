"""Arms on the bundled model and on a server, with estimates that are planted."""

import math
from pathlib import Path

import numpy as np

from engine.predict.evidence import Evidence
from engine.predict.features import text_features
from engine.predict.performance import Performance
from engine.predict.projection import Projection
from engine.predict.request_costs import CostEstimator
from engine.predict.scorers import Logistic
from engine.strategy.said import Said
from router.arms import Arms, load_arms
from router.estimator import TEXT, Estimator
from router.router import Router

QUERY = "47+35-18="
ARMS = """fallback = "think"
[models.near]
local = "bundled:chain"
backend = "torch"
[models.far]
base_url = "{url}"
served = "big"
joules_per_token = 0.5
timeout_s = 0.5
retries = 0
[[arms]]
name = "guess"
model = "near"
technique = "direct"
[[arms]]
name = "brief"
model = "near"
technique = "cot"
budget_tokens = 16
[[arms]]
name = "think"
model = "near"
technique = "cot"
budget_tokens = 64
[[arms]]
name = "vote"
model = "near"
technique = "vote"
samples = 3
temperature = 0.8
budget_tokens = 64
[[arms]]
name = "ask"
model = "far"
technique = "direct"
"""
CHANCES = {"guess": 0.3, "brief": 0.5, "think": 0.8, "vote": 0.85, "ask": 0.95}
# Far more than they take: a machine that is busy, and a first request, take several times the usual.
JOULES = {"guess": 0.2, "brief": 0.5, "think": 1.0, "vote": 3.0, "ask": 10.0}
NOWHERE = "http://127.0.0.1:9/v1"  # the discard port: nobody listens


def arms_of(tmp_path: Path, url: str = NOWHERE) -> Arms:
    path = tmp_path / "arms.toml"
    path.write_text(ARMS.format(url=url))
    return load_arms(path)


def saying(p: list[float], width: int) -> Performance:
    """These chances whatever the features."""
    projection = Projection(np.zeros(width), np.ones(width), 1e9)
    count, chances = len(p), np.array([[chance] * 2 for chance in p])
    flat = np.tile([0.0, 1.0], (count, 1))
    low, high = np.maximum(chances - 0.1, 0), np.minimum(chances + 0.05, 1)
    return Performance(projection, Logistic(np.zeros((count, width + 1))), flat, chances, low, high)


def telling(arms: Arms, p: float, slope: float = 0.0) -> Evidence:
    """An answer tells of its own arm alone: right with `p` at a confidence of a half, more so above it."""
    count = len(arms.arms)
    width = 2 * count + 2
    weights = np.full((count, count, width + 1), np.nan)
    weights[range(count), range(count)] = 0.0
    weights[range(count), range(count), count] = slope
    weights[range(count), range(count), -1] = math.log(p / (1 - p))
    return Evidence(np.zeros((count, width)), np.ones((count, width)), weights)


def planted(arms: Arms, *, features: str = TEXT, width: int | None = None, **chances: float) -> Estimator:
    """Says of every query what is in CHANCES and JOULES, whatever its features."""
    width = len(text_features("x")) if width is None else width
    names = tuple(arm.name for arm in arms.arms)
    count = len(names)
    performance = saying([{**CHANCES, **chances}[name] for name in names], width)
    terms = np.zeros((count, 4))
    terms[:, 0] = [JOULES[name] for name in names]
    spread, lengths = np.tile([[1.0], [1.0], [1.5]], (1, count)), np.zeros((2, count, width + 1))
    energy = CostEstimator(performance.projection, lengths, terms, np.full((count, 1000), np.nan), spread)
    return Estimator(names, arms.digest, features, "think", performance, energy)


def reading(shared: Router, arms: Arms, **chances: float) -> Estimator:
    """An estimator whose features the bundled model reads."""
    features = shared.answerers.features(QUERY)
    return planted(arms, features=shared.answerers.source(), width=len(features), **chances)


def told(router: Router, **said: object) -> list[dict[str, object]]:
    """The options of every question that the router puts from now on; each is answered by `said`."""
    asked: list[dict[str, object]] = []

    def answer(name: str, question: str, way: object, **options: object) -> Said:
        asked.append({"model": name, **options})
        return Said(**{"answer": "64", "energy_j": 0.1, **said})  # type: ignore[arg-type]

    router.answerers.answer = answer  # type: ignore[method-assign]
    return asked
