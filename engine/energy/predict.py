"""How long, and so how many joules, the next forward will take: a model of it, corrected by this run.

The model is an operating curve of this model on this device where there is one (`curve_predict`), else the
roofline with its scale from two warm-up forwards: a decode step gives seconds per byte, a short prefill
seconds per further operation. While decoding, every step corrects the scale (exponential average over about
20 steps) and its spread.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from engine.energy.curve import OperatingCurve
from kernels import cost
from kernels.cost import Cost, Dims, RowWork

_FORGET = 0.05  # weight of the newest step in the running averages
_NEAR = 1024  # positions, well above the warm-up's, where a step does not cost less than that one did
_Z99 = 2.33  # one-sided 99 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Two timed forwards of one row: a decode step at `length` tokens, and a prefill of `prefill_tokens`."""

    length: int
    decode_s: float
    prefill_tokens: int
    prefill_s: float


class Predictor(ABC):
    """Seconds of a forward on this model and device. Learns from `observe`.

    `name`: as results name it, see `Budget.predictor`. `curve`: the operating curve behind it, None without.
    """

    name: str
    curve: OperatingCurve | None = None

    def __init__(self) -> None:
        self._scale, self._spread, self._largest = 1.0, 0.0, 1.0
        self.steps = 0

    @abstractmethod
    def model_seconds(self, rows: Sequence[RowWork]) -> float:
        """What the model says, before this run has corrected it."""

    @abstractmethod
    def prefill_seconds(self, tokens: int) -> float:
        """Expected seconds of the prefill of one prompt. Steps seen while decoding say nothing about it."""

    def seconds(self, rows: Sequence[RowWork]) -> float:
        """Expected seconds of a forward over these rows."""
        return self.model_seconds(rows) * self._scale

    def request_seconds(self, prompts: Sequence[int], new_tokens: int) -> float:
        """Expected seconds of a request: prompts of so many tokens, and `new_tokens` for each."""
        middle = [RowWork(1, prompt + (new_tokens + 1) // 2) for prompt in prompts]
        return sum(map(self.prefill_seconds, prompts)) + (new_tokens - 1) * self.seconds(middle)

    def upper_seconds(self, rows: Sequence[RowWork], steps: int) -> float:
        """A 99 % bound on `steps` forwards like this one: the spread of their sum, and one worst step."""
        one = self.model_seconds(rows)
        spread = _Z99 * math.sqrt(self._spread * steps)
        # The average itself is known from about 1/_FORGET steps only.
        drift = _Z99 * math.sqrt(self._spread / max(min(self.steps, 1 / _FORGET), 1)) * steps
        return one * (self._scale * steps + math.hypot(spread, drift) + (self._largest - self._scale))

    def observe(self, rows: Sequence[RowWork], elapsed_s: float) -> None:
        """A decode step over these rows took `elapsed_s`."""
        ratio = elapsed_s / self.model_seconds(rows)
        self.steps += 1
        weight = max(_FORGET, 1 / self.steps)
        gap = ratio - self._scale
        self._scale += weight * gap
        self._spread += weight * (gap**2 * (1 - weight) - self._spread)
        self._largest = max(ratio, self._scale, self._largest * (1 - _FORGET) if self.steps > 1 else ratio)


class StepPredictor(Predictor):
    """By the roofline and the warm-up."""

    name = "warm-up"

    def __init__(self, dims: Dims, warm_up: WarmUp) -> None:
        super().__init__()
        self._dims = dims
        decode = cost.forward(dims, [RowWork(1, warm_up.length)])
        prefill = cost.forward(dims, [RowWork(warm_up.prefill_tokens, warm_up.prefill_tokens)])
        self._seconds_per_byte = warm_up.decode_s / decode.bytes
        further = max(warm_up.prefill_s - prefill.bytes * self._seconds_per_byte, 0.0)
        self._seconds_per_flop = further / max(prefill.flops - decode.flops, 1.0)
        self._decode_flops = decode.flops
        self._lines: dict[int, tuple[float, float]] = {}

    def model_seconds(self, rows: Sequence[RowWork]) -> float:
        if self._dims.window is None and all(row.new == 1 for row in rows):
            base_s, position_s = self._decode_line(len(rows))
            return base_s + position_s * sum(row.length for row in rows)
        return self._seconds_of(cost.forward(self._dims, rows))

    def _seconds_of(self, work: Cost) -> float:
        further = max(work.flops - self._decode_flops, 0.0)
        return work.bytes * self._seconds_per_byte + further * self._seconds_per_flop

    def _decode_line(self, rows: int) -> tuple[float, float]:
        """(seconds, seconds per cached position) of a decode step over that many rows.

        Without a window a step's cost is a line in the cached positions, and a budget asks for it several
        times a token.
        """
        if rows not in self._lines:
            low, high = (cost.forward(self._dims, [RowWork(1, n)] * rows) for n in (_NEAR, 2 * _NEAR))
            slope_s = (self._seconds_of(high) - self._seconds_of(low)) / (rows * _NEAR)
            self._lines[rows] = (self._seconds_of(low) - slope_s * rows * _NEAR, slope_s)
        return self._lines[rows]

    def prefill_seconds(self, tokens: int) -> float:
        return self.model_seconds([RowWork(tokens, tokens)])
