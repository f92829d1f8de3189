"""`--stop auto`: the stopping rule that was calibrated for this model, else answer stability."""

from engine.energy.curve import CurveKey, OperatingCurve
from engine.steps import StopPolicy
from engine.stop.base import Policy, Wrapper
from engine.stop.marginal_value import MarginalValue
from engine.stop.stability import AnswerStability


class Auto(Wrapper):
    """The policy that `auto` chose; `description` says which, and why."""

    def __init__(self, chosen: StopPolicy, why: str) -> None:
        super().__init__(chosen)
        self.reads_price = True
        self._why = why

    @property
    def description(self) -> str:
        inner = super().description
        return f"auto: {self._why}" + (f"; {inner}" if inner else "")


def auto_policy(curve: OperatingCurve | None, here: CurveKey, *, thinks: bool) -> Auto:
    """What `auto` is on a model with this operating curve. `thinks`: it marks its thinking.

    The rule of another device's or source's curve stops where the joules of that curve no longer pay.
    """
    if not thinks:
        return Auto(Policy(), "this model does not mark its thinking, so nothing is stopped")
    if curve is not None and curve.stopping is not None:
        why = f"the stopping rule that was calibrated for this model, {curve.stopping.date}"
        if elsewhere := curve.mismatch(here):
            why += f"; {elsewhere}: rule and price weigh that curve's joules, not this run's"
        return Auto(MarginalValue(rule=curve.stopping), why)
    return Auto(
        AnswerStability(),
        "answer stability, as no stopping rule was calibrated for this model here; a price is not weighed",
    )
