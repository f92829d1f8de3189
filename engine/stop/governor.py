"""Probes cost joules too: a probing policy may spend a share of the total on them, and no more."""

from engine.errors import UsageError
from engine.steps import Context, Inject, Probe, ProbeReading, Step, Stop, StopPolicy
from engine.stop.base import Wrapper

SHARE = 0.05  # of the total, where nobody says otherwise


class ProbeGovernor(Wrapper):
    """`inner`, whose probes are granted only where the joules since the last one have earned them.

    A row earns `probe_share` of what it spends, and a probe is granted once that covers what one takes: the
    most that a probe of this row took so far, and before the first an upper bound of as many steps as it may
    read tokens. So a probe comes when the joules since the last one reach E_probe / `probe_share`, and probes
    stay within that share of the total. What a probe took beyond the earned is owed; what was earned beyond
    it is not kept for later. A probe that is not granted is as good as never asked for.
    """

    def __init__(self, inner: StopPolicy, probe_share: float = SHARE) -> None:
        if not 0 < probe_share <= 1:
            raise UsageError(f"a probe share must lie in (0, 1], not {probe_share}")
        super().__init__(inner)
        self.probe_share = probe_share
        self._withheld = 0

    @property
    def description(self) -> str:
        """With how many probes were wished for in vain: a policy that never probed has judged nothing."""
        if not self._withheld:
            return super().description
        told = f"probes that a share of {self.probe_share:.0%} did not grant: {self._withheld}"
        return "; ".join(part for part in (super().description, told) if part)

    def reset(self, context: Context) -> None:
        super().reset(context)
        self._earned_j = self._seen_j = self._largest_j = 0.0
        self._withheld = 0

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        spent_j = step.energy().spent_j
        self._earned_j += self.probe_share * (spent_j - self._seen_j) / max(step.active_rows, 1)
        self._seen_j = spent_j
        action = super().on_token(step)
        if isinstance(action, Probe):
            expected_j = self._largest_j or step.predicted_upper_j(action.max_tokens)
            if self._earned_j >= expected_j:
                return action
            self._withheld += 1
            return None
        return action

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        self._largest_j = max(self._largest_j, reading.energy_j)
        self._earned_j = min(self._earned_j - reading.energy_j, 0.0)
        self._seen_j += reading.energy_j  # a probe earns nothing itself
        return super().on_probe(step, reading)
