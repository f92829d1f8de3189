"""End a row that is not getting anywhere, without an answer."""

from engine.errors import UsageError
from engine.steps import Context, Phase, Probe, ProbeReading, Step, Stop, StopReason
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints


class GiveUp(Policy):
    """After `tokens` of thinking, or `steps` written out, the row ends with reason `give_up`, unanswered.

    `below`: only where the answer is unlikely. From then on every checkpoint is probed, and the row is given
    up when the first token of the answer has a lower probability.
    """

    def __init__(
        self, *, tokens: int | None = None, steps: int | None = None, below: float | None = None
    ) -> None:
        limit = tokens if tokens is not None else steps
        if (tokens is None) == (steps is None) or limit is None or limit < 1:
            raise UsageError("giving up needs either tokens or steps, at least 1")
        if below is not None and not 0 < below <= 1:
            raise UsageError(f"below is a probability in (0, 1], not {below}")
        self.tokens, self.steps, self.below = tokens, steps, below
        if below is not None:
            self.needs = frozenset({"probe"})
        self._ends = Checkpoints()

    def reset(self, context: Context) -> None:
        self._ends.begin(context)
        self._thought = 0

    def on_token(self, step: Step) -> Stop | Probe | None:
        if step.phase is not Phase.THINK:
            return None
        self._thought += 1
        at_end = self._ends.reached(step)
        if self._thought < (self.tokens or 0) or self._ends.count < (self.steps or 0):
            return None
        if self.below is None:
            return Stop(StopReason.GIVE_UP)
        return Probe() if at_end else None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        assert self.below is not None
        return Stop(StopReason.GIVE_UP) if reading.confidence < self.below else None
