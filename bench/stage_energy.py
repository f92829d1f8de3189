"""Joules of every stage, and of the whole decode step that they make up, all measured alike: by repetition.

Nothing is split: each figure is a window of at least a second, and of twenty ticks, in which one thing ran
over and over, divided by its calls. So the sum of the stages need not be the step; what is left is shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench.record import Value
from bench.repeated import Repeated, idle, least_seconds, repeat
from bench.stages import Bench
from engine.energy.meter import Meter
from engine.energy.poller import Poller
from engine.energy.sources import open_meter, require_measured

SECONDS = 1.0
IDLE_SECONDS = 2.0
QUEUE_S = 0.05  # of work that a device may be given before it is waited for
LAYER_STAGES = ("attention_input", "attention", "attention_output", "mlp")
LAYERS, HEAD = "layers", "head_logits"
BY_CONTEXT = ("attention", LAYERS)  # whose cost depends on the cached positions


@dataclass
class StageMeter:
    """A meter that is running, what the idle device draws, and every stage's joules so far.

    `calls`: gross J of one call, by (arm, stage, rows, context); a context that a stage does not depend on
    is 0.
    """

    poller: Poller
    device: torch.device
    baseline: Repeated
    calls: dict[tuple[str, str, int, int], float | None] = field(default_factory=dict)

    @property
    def meter(self) -> Meter:
        return self.poller.meter

    def stage(self, made: Bench, arm: str, stage: str, rows: int, context: int) -> dict[str, Value]:
        """The joules of one call of a stage, ready to run."""
        found = self.repeat(made.timed.run, made.timed.repeats)
        self.calls[_key(arm, stage, rows, context)] = found.call_j
        return self.values(found)

    def repeat(self, run: Callable[[], object], calls: int = 1) -> Repeated:
        """Of one of the `calls` that a `run` makes. A GPU is waited for after a stretch of runs, not each."""
        run()
        self._synchronise()
        begun_s = self.poller.clock()
        run()
        self._synchronise()
        run_s = max(self.poller.clock() - begun_s, 1e-7)
        together = max(1, int(min(QUEUE_S, least_seconds(self.poller, SECONDS)) / run_s))

        def stretch() -> None:
            for _ in range(together):
                run()
            self._synchronise()

        whole = repeat(self.poller, stretch, seconds=SECONDS, synchronise=self._synchronise)
        return Repeated(
            calls=whole.calls * together * calls,
            elapsed_s=whole.elapsed_s,
            energy_j=whole.energy_j,
            uncertainty_j=whole.uncertainty_j,
            ticks=whole.ticks,
            problem=whole.problem,
        )

    def values(self, found: Repeated) -> dict[str, Value]:
        """For a record: joules of one call, gross and less idle."""
        half = None if found.uncertainty_j is None else found.uncertainty_j / found.calls
        less = found.call_less_idle_j(self.baseline.power_w)
        return {
            "energy": self._value(found.call_j, half, found.problem),
            "energy_less_idle": self._value(less, half, found.problem or self.baseline.problem),
        }

    def _value(self, joules: float | None, half: float | None, problem: str | None) -> Value:
        source = f"{self.meter.name}, by repetition"
        if joules is None:
            return Value("J", None, source=source, measured=self.meter.measured, reason=problem or "not told")
        low, high = (None, None) if half is None else (joules - half, joules + half)
        return Value("J", joules, low, high, source, self.meter.measured)

    def sum_of(self, stages: Sequence[str], arm: str, layers: int, rows: int, context: int) -> float | None:
        """Gross J of these stages in all layers, and of the head; None where one of them has none."""
        total = 0.0
        for stage in (*stages, HEAD):
            own_j = self.calls.get(_key(arm, stage, rows, context))
            if own_j is None:
                return None
            total += own_j * (1 if stage == HEAD else layers)
        return total

    def reconciled(
        self, step: Repeated, arm: str, layers: int, rows: int, context: int
    ) -> Mapping[str, Value]:
        """The step's own joules, the sum of its stages, and what is left: in J, and of the step.

        `layers_energy`: of layers that ran in one call, as in the step, and the head.
        """
        found = self.values(step)
        at = (arm, layers, rows, context)
        summed, whole, own_j = self.sum_of(LAYER_STAGES, *at), self.sum_of((LAYERS,), *at), step.call_j
        found["layers_energy"] = self._value(whole, None, "the layers in one call or the head have no joules")
        if summed is None or own_j is None:
            reason = "a stage or the step has no joules"
            return found | {
                name: Value(unit, None, reason=reason)
                for name, unit in (("stages_energy", "J"), ("remainder", "J"), ("remainder_share", "1"))
            }
        return found | {
            "stages_energy": self._value(summed, None, None),
            "remainder": self._value(own_j - summed, None, None),
            "remainder_share": Value("1", 1 - summed / own_j, source="of the step's own joules"),
        }

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _key(arm: str, stage: str, rows: int, context: int) -> tuple[str, str, int, int]:
    return arm, stage, rows, context if stage in BY_CONTEXT else 0


@contextmanager
def metering(source: str, device: torch.device, *, measured: bool) -> Iterator[StageMeter]:
    """A meter, polled, and the idle device's power. Raises `UsageError` and `MeterError` before that."""
    meter = open_meter(source, cuda_device=device.index if device.type == "cuda" else None)
    try:
        if measured:
            require_measured(meter)
        with Poller(meter) as poller:
            yield StageMeter(poller, device, idle(poller, IDLE_SECONDS))
    finally:
        meter.close()
