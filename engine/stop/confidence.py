"""Stop thinking when the model is sure of its answer."""

from engine.errors import UsageError
from engine.steps import Context, Probe, ProbeReading, Step, Stop
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints


class AnswerConfidence(Policy):
    """At a checkpoint, probe for the answer; stop when its first token has a probability of `threshold`.

    `choices`: the letters of a multiple-choice question ("ABCD"); the probability is then the likeliest
    letter's share of what all letters have. After DEER (arXiv 2504.15895), which takes 0.95; its probe reads
    the mean over an answer of up to 20 tokens, this one reads one token, the cheapest there is.
    """

    needs = frozenset({"probe"})

    def __init__(self, threshold: float = 0.95, *, choices: str = "", every: int | None = None) -> None:
        if not 0 < threshold <= 1:
            raise UsageError(f"a confidence threshold must lie in (0, 1], not {threshold}")
        self.threshold, self.choices, self.every = threshold, choices, every
        self._checkpoints = Checkpoints(every)

    def reset(self, context: Context) -> None:
        self._checkpoints.begin(context)

    def on_token(self, step: Step) -> Probe | None:
        return Probe(choices=tuple(self.choices)) if self._checkpoints.reached(step) else None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        shares = [reading.choices[letter] for letter in self.choices]
        return Stop() if max(shares, default=reading.confidence) >= self.threshold else None
