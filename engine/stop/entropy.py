"""Stop thinking when the uncertainty behind the closer has settled."""

from engine.errors import UsageError
from engine.steps import Context, Probe, ProbeReading, Step, Stop
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints


class EAT(Policy):
    """Entropy after </think>: stop when the variance of H is below `delta` (Wang et al., arXiv 2509.26522).

    H is the entropy, in nats, of the token behind closer and answer prefix, read at each checkpoint. With the
    weight α = `alpha` of the newest of n readings:

        M = (1 - α)·M + α·H,  V = (1 - α)·V + α·(H - M)²,  stop when V / (1 - (1 - α)^(n-1)) < delta

    M begins at the first reading and V at 0 as in their code, which waits 25 readings for V to fill; the
    divisor takes that bias out, and `least` readings come first.
    """

    needs = frozenset({"probe"})

    def __init__(
        self, alpha: float = 0.2, delta: float = 0.01, *, least: int = 4, every: int | None = None
    ) -> None:
        if not 0 < alpha < 1:
            raise UsageError(f"alpha must lie in (0, 1), not {alpha}")
        if not delta > 0:
            raise UsageError(f"delta must be positive, not {delta}")
        if least < 2:
            raise UsageError(f"a variance needs at least 2 readings, not {least}")
        self.alpha, self.delta, self.least, self.every = alpha, delta, least, every
        self._checkpoints = Checkpoints(every)

    def reset(self, context: Context) -> None:
        self._checkpoints.begin(context)
        self._readings, self._mean, self._variance = 0, 0.0, 0.0

    def on_token(self, step: Step) -> Probe | None:
        return Probe() if self._checkpoints.reached(step) else None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        self._readings += 1
        if self._readings == 1:
            self._mean = reading.entropy
            return None
        self._mean += self.alpha * (reading.entropy - self._mean)
        self._variance += self.alpha * ((reading.entropy - self._mean) ** 2 - self._variance)
        filled = 1 - (1 - self.alpha) ** (self._readings - 1)
        settled = self._variance / filled < self.delta
        return Stop() if settled and self._readings >= self.least else None
