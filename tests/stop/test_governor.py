"""What probes may cost."""

import random
from itertools import pairwise

import pytest

from engine.errors import UsageError
from engine.steps import Probe, ProbeReading, Step
from engine.stop import AnswerConfidence, AnswerStability, Policy, ProbeGovernor
from tests.stop.scripted import Script, play, thinker


class Eager(Policy):
    """Would probe at every token."""

    needs = frozenset({"probe"})

    def __init__(self, max_tokens: int = 1) -> None:
        self.max_tokens = max_tokens

    def on_token(self, step: Step) -> Probe:
        return Probe(max_tokens=self.max_tokens)


class Blind(ProbeGovernor):
    """Forgets what probes cost."""

    def on_probe(self, step: Step, reading: ProbeReading) -> None:
        self._largest_j = 1e-9


def script(steps: int) -> Script:
    return thinker(["thought"] * steps, ["42"])


def probe_share(seed: int, kind: type[ProbeGovernor] = ProbeGovernor) -> tuple[float, float, int]:
    """(share of probes in all joules, the share allowed, probes) of a random request."""
    rng = random.Random(seed)
    share, rows = rng.choice([0.02, 0.05, 0.1, 0.3]), rng.choice([1, 1, 2, 3])
    results, _ = play(
        script(rng.randrange(4, 60)),
        kind(Eager(rng.choice([1, 3, 8])), share),
        rows=rows,
        jitter=lambda: rng.uniform(0.8, 1.2),
    )
    energy = results[0].energy
    probes = energy.phases.get("probe")
    return (probes.energy_j if probes else 0.0) / energy.total_j, share, sum(r.stop.probes for r in results)


@pytest.mark.parametrize("runs", [24, pytest.param(300, marks=pytest.mark.slow)])
def test_probes_stay_within_their_share_of_the_total(runs: int) -> None:
    found = [probe_share(seed) for seed in range(runs)]
    assert all(share <= allowed for share, allowed, _ in found), max(s / a for s, a, _ in found)
    used = [share / allowed for share, allowed, probes in found if probes >= 5]
    assert len(used) >= runs / 10
    assert sum(used) / len(used) > 0.6, "and are not refused what they have earned"


def test_a_governor_that_forgets_would_be_caught() -> None:
    assert any(share > allowed for share, allowed, _ in (probe_share(seed, Blind) for seed in range(10)))


def test_the_first_probe_waits_until_its_prediction_is_earned() -> None:
    _, model = play(script(30), ProbeGovernor(Eager(), 0.1))
    firsts = [number for number, fed in enumerate(model.forwards) if fed == [2]]
    assert firsts[0] == pytest.approx(10, abs=1), "a tenth of ten steps pays one"
    assert min(b - a for a, b in pairwise(firsts)) >= 10


def test_it_is_called_what_it_governs() -> None:
    [result], _ = play(script(30), ProbeGovernor(AnswerConfidence(0.9)))
    assert result.stop.policy == "AnswerConfidence"
    assert result.stop.policies[0].parameters["probe_share"] == 0.05
    [result], _ = play(script(100), ProbeGovernor(AnswerStability(2), 0.05))
    assert result.stop.policy == "AnswerStability"
    assert result.stop.probe_j is not None
    assert result.energy.total_j is not None
    assert result.stop.probe_j <= 0.05 * result.energy.total_j


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_lies_between_nothing_and_all(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        ProbeGovernor(Eager(), share)


def test_probes_that_were_not_granted_are_told() -> None:
    [result], _ = play(script(30), ProbeGovernor(Eager(), 0.1))
    asked = result.stop.probes + int(result.stop.policies[0].description.rpartition(" ")[2])
    assert result.stop.policies[0].description.startswith("probes that a share of 10% did not grant: ")
    [free], _ = play(script(30), Eager())
    assert asked == free.stop.probes
    assert free.stop.policies[0].description == ""
