"""A linear probe fitted to logged states: is the answer that would be forced at this step's end right?

p = σ(w·h + b) by L2-regularised logistic regression; such states were probed by Zhang et al. (arXiv
2504.05419). Questions are dealt out by their texts: half of them fit every layer and strength; a quarter
chooses, by log loss, and sets the threshold; the last quarter has no say and tells what came of it.

The threshold is the lowest at which, as at every higher one tried, stopping where the probe first says so
loses at most so many points against full thinking on the choosing quarter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.calibration.fit import LEAST_RUNS
from bench.calibration.grid import Array
from bench.calibration.log import Trace
from bench.calibration.replay import at_stops
from bench.calibration.states import read_states
from bench.calibration.tasks import refuse_test
from engine.errors import TokenjouleError
from engine.predict.chances import log_loss
from engine.predict.scorers import Logistic
from engine.predict.texts import shuffled
from engine.stop.rule import POINTS

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C, tried
# Thresholds, 0.9991 to 0.0067, evenly in log-odds. By hundredths 0.99 was the most careful, and on 91
# questions of the test bed the next one lost more than 2 points already.
TRIED = tuple(1 / (1 + math.exp(-tenths / 10)) for tenths in range(70, -51, -1))


@dataclass(frozen=True)
class LinearProbe:
    """w (E,) float32, for states behind `layer`; stops where σ(w·h + b) ≥ threshold."""

    layer: int
    w: NDArray[np.float32]
    b: float
    threshold: float

    def log_odds(self, states: NDArray[np.float32]) -> Array:
        """(N, E) -> (N,)."""
        return (states @ self.w).astype(np.float64) + self.b

    def p(self, states: NDArray[np.float32]) -> Array:
        """(N, E) -> (N,): chances of a right answer."""
        return 1 / (1 + np.exp(-np.clip(self.log_odds(states), -30, 30)))

    def stops(self, traces: Sequence[Trace]) -> list[int]:
        """The checkpoint where each run would have been stopped; how many it has if it ends by itself."""
        return _stops(_log_odds(self, traces), self.threshold)

    def save(self, path: Path) -> None:
        """As `engine.stop.HiddenProbe` reads it. Raises `OSError`."""
        with path.open("wb") as file:
            np.savez(file, w=self.w, b=self.b, threshold=self.threshold, layer=self.layer)


@dataclass(frozen=True)
class Fitted:
    """`losses`: of each layer, log loss (nats) on the choosing questions at its best strength.

    `strength`: C of the layer chosen. `choosing`: runs that chose it and set the threshold. `held_out`: runs
    that had no say in it.
    """

    probe: LinearProbe
    losses: dict[int, float]
    strength: float
    choosing: int
    held_out: list[Trace]


def step_ends(traces: Sequence[Trace]) -> list[list[int]]:
    """Of each run the checkpoints at which a step ended: the first token need not end one."""
    return [[at for at, entry in enumerate(trace.checkpoints) if entry.stability] for trace in traces]


def ends_right(traces: Sequence[Trace]) -> Array:
    """(N,) 0 or 1: whether the answer forced at each step's end is right, one run after the other."""
    pairs = zip(traces, step_ends(traces), strict=True)
    return np.array([trace.checkpoints[at].correct for trace, ends in pairs for at in ends], float)


def ends_states(traces: Sequence[Trace], layer: int) -> NDArray[np.float32]:
    """(N, E), of the same step ends; (0, 0) for none. Raises `TokenjouleError` as `read_states` does."""
    pairs = zip(traces, step_ends(traces), strict=True)
    return read_states([trace.checkpoints[at] for trace, ends in pairs for at in ends], layer)


def dealt(traces: Sequence[Trace]) -> tuple[list[Trace], list[Trace], list[Trace]]:
    """Runs to fit, to choose and to tell by: a half and two quarters of their texts, at random."""
    parts: tuple[list[Trace], list[Trace], list[Trace]] = ([], [], [])
    place, count = shuffled([trace.end.question for trace in traces], 0)
    for trace, quarter in zip(traces, place * 4 // max(count, 1), strict=True):
        parts[max(0, quarter - 1)].append(trace)
    return parts


def fit_probe(traces: Sequence[Trace], layers: Sequence[int], *, lose: float) -> Fitted:
    """The probe that does best of all `layers`. `lose`: points of accuracy that may be given up.

    Raises `TokenjouleError` for runs of several models, too few, or such that teach nothing, and where no
    threshold is careful enough; `UsageError` for runs on the test split.
    """
    refuse_test({trace.end.split for trace in traces})
    origins = {(trace.end.model, trace.end.quantization) for trace in traces}
    if len(origins) > 1:
        raise TokenjouleError(f"the runs are of several models: {sorted(origins)}")
    fit, choose, tell = dealt(traces)
    if len(traces) < LEAST_RUNS or not tell:
        raise TokenjouleError(
            f"a probe needs {LEAST_RUNS} runs or more, of four texts or more: {len(traces)}"
        )
    taught, asked = ends_right(fit), ends_right(choose)
    if not all(0 < right.sum() < len(right) for right in (taught, asked)):
        raise TokenjouleError(
            "the answers forced at the steps' ends are all right, or all wrong: that teaches no probe"
        )
    found = {}
    for layer in layers:
        states = ends_states([*fit, *choose, *tell], layer).astype(float)
        known, seen, _ = np.split(states, [len(taught), len(taught) + len(asked)])
        tries = [(strength, _regression(known, taught, layer, strength)) for strength in STRENGTHS]
        found[layer] = min(
            ((log_loss(each.p(seen), asked), strength, each) for strength, each in tries), key=itemgetter(0)
        )
    losses = {layer: loss for layer, (loss, _, _) in found.items()}
    _, strength, best = found[min(losses, key=losses.__getitem__)]
    return Fitted(
        replace(best, threshold=_threshold(choose, best, lose)), losses, strength, len(choose), tell
    )


def _regression(states: Array, right: Array, layer: int, strength: float) -> LinearProbe:
    """On states (N, E) made alike in scale, told in their own. Its threshold is still to be set."""
    mean, scale = states.mean(0), states.std(0)
    scale[scale == 0] = 1.0
    *w, b = Logistic.fit((states - mean) / scale, right[:, None], strength).weights[0]
    w = np.array(w) / scale
    return LinearProbe(layer, w.astype(np.float32), float(b - w @ mean), TRIED[0])


def _threshold(traces: Sequence[Trace], probe: LinearProbe, lose: float) -> float:
    """See above. Raises `TokenjouleError` where the most careful one loses more."""
    full = float(np.mean([trace.end.correct for trace in traces]))
    log_odds, kept = _log_odds(probe, traces), None
    for threshold in TRIED:
        stopped = at_stops(traces, _stops(log_odds, threshold)).correct.mean()
        if POINTS * (full - stopped) > lose + 1e-9:
            break
        kept = threshold
    if kept is None:
        raise TokenjouleError(
            f"stopping at {TRIED[0]:.4f} already loses more than {lose:g} points on {len(traces)} questions: "
            "no threshold is careful enough; allow more with --lose, or ask more questions"
        )
    return kept


def _log_odds(probe: LinearProbe, traces: Sequence[Trace]) -> list[Array]:
    """Of each run (K,): at each checkpoint, -inf where no step ended."""
    states = ends_states(traces, probe.layer)
    flat = iter(probe.log_odds(states) if len(states) else ())
    found = []
    for trace, ends in zip(traces, step_ends(traces), strict=True):
        row = np.full(len(trace.checkpoints), -np.inf)
        row[ends] = [next(flat) for _ in ends]
        found.append(row)
    return found


def _stops(log_odds: Sequence[Array], threshold: float) -> list[int]:
    least = math.log(threshold / (1 - threshold))
    return [int(np.argmax(row >= least)) if (row >= least).any() else len(row) for row in log_odds]
