"""The predictor's short cut for decode steps is the roofline's own arithmetic."""

import pytest

from engine.energy.predict import StepPredictor, WarmUp
from kernels import cost
from kernels.cost import Dims, RowWork

DIMS = Dims(4, 256, 1024, 8, 2, 32, 1000, 2.0, 2.0, 2.0)
WARM_UP = WarmUp(18, 0.004, 16, 0.02)


@pytest.mark.parametrize("lengths", [[30], [1024], [5000], [30, 700, 2000]])
def test_a_decode_step_is_a_line_in_the_cached_positions(lengths: list[int]) -> None:
    predictor = StepPredictor(DIMS, WARM_UP)
    rows = [RowWork(1, length) for length in lengths]
    work = cost.forward(DIMS, rows)
    decode = cost.forward(DIMS, [RowWork(1, 18)])
    prefill = cost.forward(DIMS, [RowWork(16, 16)])
    per_byte = 0.004 / decode.bytes
    per_flop = (0.02 - prefill.bytes * per_byte) / (prefill.flops - decode.flops)
    expected = work.bytes * per_byte + (work.flops - decode.flops) * per_flop
    assert predictor.model_seconds(rows) == pytest.approx(expected, rel=1e-9)
    assert predictor.model_seconds([RowWork(1, 18)]) == pytest.approx(0.004, rel=1e-9)


def test_a_window_is_not_a_line() -> None:
    windowed = Dims(4, 256, 1024, 8, 2, 32, 1000, 2.0, 2.0, 2.0, window=100)
    predictor = StepPredictor(windowed, WARM_UP)
    near, far = (predictor.model_seconds([RowWork(1, length)]) for length in (100, 5000))
    assert near == pytest.approx(far, rel=1e-9)


def test_an_upper_bound_holds_the_worst_step_seen() -> None:
    predictor = StepPredictor(DIMS, WARM_UP)
    for seconds in [0.004] * 30 + [0.02] + [0.004] * 5:
        predictor.observe([RowWork(1, 18)], seconds)
    assert predictor.upper_seconds([RowWork(1, 18)], 1) > 0.012
    assert predictor.seconds([RowWork(1, 18)]) < 0.006
