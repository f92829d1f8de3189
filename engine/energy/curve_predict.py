"""The next forward's seconds by an operating curve, corrected by the run as every prediction is."""

from collections.abc import Sequence

from engine.energy.curve import CurveKey, Features, OperatingCurve, request_features, step_features
from engine.energy.predict import Predictor, StepPredictor
from kernels.cost import RowWork

CURVE_REFUSED = "warm-up (curve refused)"
CURVE_ELSEWHERE = "warm-up (curve of another device or source)"


def forward_features(rows: Sequence[RowWork]) -> Features:
    """Of a step; what a row is fed beyond one token (an injection) costs what prefill takes for it."""
    _, _, _, _, step, row, position = step_features(len(rows), sum(work.length for work in rows))
    further = sum(work.new - 1 for work in rows)
    squares = sum(work.length**2 - (work.length - work.new + 1) ** 2 for work in rows)
    return (0.0, 0.0, float(further), float(squares), step, row, position)


class CurvePredictor(Predictor):
    """By a curve fitted on this model and device; its joules are the curve's, through the curve's power."""

    name = "curve"

    def __init__(self, curve: OperatingCurve) -> None:
        super().__init__()
        self.curve: OperatingCurve = curve

    def model_seconds(self, rows: Sequence[RowWork]) -> float:
        return self.curve.seconds.expected(forward_features(rows))

    def prefill_seconds(self, tokens: int) -> float:
        return self.curve.seconds.expected(request_features([tokens], 1, 1))


def choose_predictor(curve: OperatingCurve | None, key: CurveKey, warmed: StepPredictor) -> Predictor:
    """By the curve where there is one of `key` that `predicts`, else by the warm-up, which says why."""
    if curve is None:
        return warmed
    elsewhere = curve.mismatch(key)
    if curve.predicts and not elsewhere:
        return CurvePredictor(curve)
    warmed.name = CURVE_ELSEWHERE if elsewhere else CURVE_REFUSED
    return warmed
