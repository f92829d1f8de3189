"""Operating curves with planted coefficients, and requests on a simulated device that cost what they say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.curve_requests import Prepare, Size
from engine.decode import Decoder
from engine.energy.attribution import StepMark
from engine.energy.curve import CostCurve, CurveKey, OperatingCurve, Provenance, Tested, request_features
from engine.energy.curve_fit import Sample
from engine.energy.ledger import Ledger
from engine.energy.simulated import SimulatedProfile
from engine.rows import Request
from tests.simulation import ANSWER, TOKENIZER, Device, FakeModel

KEY = CurveKey("toy", "f1", "none", "float32", "cpu", "a chip", "", "simulated", 600.0)
TESTED = Tested((8, 4000), (1, 500), (1, 8), 80, 40, 40, 0.01, 0.95, 0.01, 0.95)
ORIGIN = Provenance(
    "2026-01-02T03:04:05+00:00", "python -m bench.curves", "0123", {"torch": "2.9"}, "", False
)

PLANTED_J = (0.9, 2.5, 0.05, 2e-5, 6.0, 0.8, 0.002)  # in the order of TERMS; a step of 20 ms at 350 W
PREFILL_W, DECODE_W, IDLE_W = 600.0, 350.0, 90.0


def cost_curve(coefficients: tuple[float, ...], *, share: float = 0.02) -> CostCurve:
    """Coefficients that are known exactly; requests stray by `share`."""
    return CostCurve(coefficients, ((0.0,) * 7,) * 7, 0.0, share, 2.0)


def curve() -> OperatingCurve:
    """What was planted, of a device that draws the same power whatever it does."""
    seconds = tuple(joules / DECODE_W for joules in PLANTED_J)
    return OperatingCurve(KEY, False, cost_curve(PLANTED_J), cost_curve(seconds), TESTED, ORIGIN)


def flat_curve(step_s: float, step_j: float) -> OperatingCurve:
    """Steps cost the same wherever they are; a prefill of 16 tokens costs two of them."""

    def terms(step: float) -> tuple[float, ...]:
        return (0.0, 0.0, step / 8, 0.0, step, 0.0, 0.0)

    return replace(curve(), energy=cost_curve(terms(step_j)), seconds=cost_curve(terms(step_s)))


def random_size(rng: np.random.Generator, *, prompt: int = 2000, new: int = 200) -> Size:
    """Log-uniform, as `bench.curves` draws them."""
    tokens = [
        round(float(np.exp(rng.uniform(np.log(low), np.log(high))))) for low, high in ((8, prompt), (1, new))
    ]
    return Size(*tokens, int(rng.choice((1, 2, 4, 8))))


def noisy_samples(rng: np.random.Generator, count: int, *, noise: float, extra_j: Any = None) -> list[Sample]:
    """Requests that cost what was planted, times a factor of each; and `extra_j(size)`, not in the form."""
    samples = []
    for _ in range(count):
        size = random_size(rng)
        features = request_features([size.prompt_tokens] * size.rows, size.new_tokens, size.rows)
        planted_j = sum(weight * part for weight, part in zip(PLANTED_J, features, strict=True))
        planted_j += extra_j(size) if extra_j else 0.0
        energy, seconds = planted_j * np.exp(noise * rng.standard_normal(2))
        samples.append(
            Sample(size.prompt_tokens, size.new_tokens, size.rows, float(energy), float(seconds) / DECODE_W)
        )
    return samples


class PricedModel(FakeModel):
    """Every forward costs what `PLANTED_J` says, times a factor of its own and one of its request's."""

    def __init__(self, device: Device, rng: np.random.Generator, *, noise: float) -> None:
        super().__init__(device, None, answer_tokens=0)
        self._rng, self._noise = rng, noise
        self.factor = 1.0

    def begin(self) -> None:
        """A request comes: the host is busy with it for a moment, the device idles."""
        self.factor = float(np.exp(self._noise * self._rng.standard_normal()))
        self.device.spend(IDLE_W, PLANTED_J[0] * self.factor / IDLE_W)

    def forward(self, tokens: Any, layout: Any, cache: Any, *, taps: Any = ()) -> Any:
        _, prompt, token, square, step, row_step, position = PLANTED_J
        first, fed = layout.rows[0], len(tokens)
        if first.start == 0 and first.length == fed and len(layout.rows) == 1:
            joules, watts = prompt + token * fed + square * fed**2, PREFILL_W
        else:
            positions = sum(row.length for row in layout.rows)
            joules, watts = step + row_step * len(layout.rows) + position * positions, DECODE_W
        joules *= self.factor * float(np.exp(self._noise * self._rng.standard_normal()))
        self.device.spend(watts, joules / watts)
        logits = torch.zeros(len(layout.rows), 256)
        logits[:, ANSWER] = 1.0
        return logits, {}


def preparing(device: Device, model: PricedModel) -> Prepare:
    """What `bench.curve_requests.Sampler` asks for, of the real decode loop and ledger on that device."""

    def prepare(size: Size) -> Callable[[], Sequence[StepMark]]:
        ledger = Ledger(device.poller)
        requests = [Request((7,) * size.prompt_tokens, size.new_tokens) for _ in range(size.rows)]

        def run() -> Sequence[StepMark]:
            ledger.start()
            model.begin()
            decoder = Decoder(model, TOKENIZER, requests, ledger, share_prompts=False)  # type: ignore[arg-type]
            assert sum(1 for _ in decoder.steps()) == size.rows * size.new_tokens
            device.meter.enter("idle")
            return ledger.marks

        return run

    return prepare


def simulated_device(*, period_s: float = 0.1) -> Device:
    return Device(SimulatedProfile(IDLE_W, PREFILL_W, DECODE_W, period_s=period_s))
