"""What a request will take, told before it begins: refuses budgets that cannot be kept, and counts samples.

By the operating curve; without one, power and speed are what the warm-up saw, or the device's limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.energy.predict import Predictor
from engine.errors import TokenjouleError
from kernels.cost import RowWork


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one model on one device. `power_w`: of the warm-up or of the device's limit, None where neither is
    known; `meter`: the name of what did not tell it.

    `prompts` everywhere: how many tokens each prompt has that will be computed.
    """

    predictor: Predictor
    power_w: float | None
    meter: str

    def prior_w(self, prompts: Sequence[int]) -> float | None:
        """The power that a request is believed to draw until its first tick has come."""
        curve = self.predictor.curve
        return self.power_w if curve is None else curve.power_w(prompts)

    def minimum_j(self, prompts: Sequence[int]) -> float:
        """What prefilling the prompts takes at least. Raises `TokenjouleError` where nobody knows."""
        if self.predictor.curve is not None:
            return self.predictor.curve.minimum_j(prompts)
        if self.power_w is None:
            raise TokenjouleError(
                f"a joule budget needs the device's power, and {self.meter} has told none so far"
            )
        return self.power_w * self._prefill_s(prompts)

    def require(self, budget_j: float, prompts: Sequence[int]) -> None:
        """Raises `TokenjouleError` for a budget that the prompts alone will pass."""
        minimum_j = self.minimum_j(prompts)
        if budget_j < minimum_j:
            raise TokenjouleError(
                f"a budget of {budget_j:g} J is less than the predicted minimum of {minimum_j:.3g} J, "
                "which the prompt's prefill alone will take"
            )

    def rows_held(self, budget_j: float, prompts: Sequence[int], lengths: Sequence[int], tokens: int) -> int:
        """How many rows may write `tokens` each, decoded together behind the prefill; at least 1.

        `lengths`: of the rows' own prompts. The first of the tokens is the prefill's.
        """
        power_w = self.prior_w(lengths) or 0.0
        left_j = budget_j - power_w * self._prefill_s(prompts)
        steps, count = tokens - 1, len(lengths)
        while count > 1:
            work = [RowWork(1, length + tokens // 2) for length in lengths[:count]]
            if power_w * steps * self.predictor.seconds(work) <= left_j:
                break
            count -= 1
        return count

    def _prefill_s(self, prompts: Sequence[int]) -> float:
        return sum(map(self.predictor.prefill_seconds, prompts))
