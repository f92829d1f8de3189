"""Requests on a device of known powers, seen through the simulated meter: for tests of the power model."""

import random
from dataclasses import dataclass, field

from engine.energy.attribution import Share, StepMark
from engine.energy.meter import Sensor
from engine.energy.power_model import Run
from engine.energy.simulated import SimulatedProfile
from kernels.cost import RowWork
from tests.simulation import Device


@dataclass
class PowerWorld:
    """`run` makes one request; a prefill takes `prefill_s` for 512 tokens, a token 5 ms give or take 10 %."""

    profile: SimulatedProfile = field(default_factory=SimulatedProfile)
    idle_w: float = 90.0
    prefill_w: tuple[float, float] = (450.0, 0.1)  # W, W per prompt token
    decode_w: tuple[float, float] = (280.0, 0.04)  # W, W per cached token
    prefill_s: float = 0.06
    token_s: float = 0.005
    gap_s: float = 0.0002
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.device = Device(self.profile)

    @property
    def sensor(self) -> Sensor:
        return self.device.meter.sensor

    def run(self, *, prompt: int | None = None, tokens: int = 120) -> tuple[Run, list[float]]:
        """(the request with some idle time around it, the true µJ of every step)."""
        device, rng = self.device, self.rng
        prompt = prompt or rng.randrange(300, 900)
        device.meter.set_power(self.idle_w)
        device.sleep(0.5 + rng.uniform(0, 2 * self.profile.period_s))
        before_s = device.clock() - 0.3
        marks, truth = [], []
        work = [(prompt, prompt, self.prefill_s * prompt / 512)]
        work += [(1, prompt + i, self.token_s * rng.uniform(0.9, 1.1)) for i in range(1, tokens)]
        start_s = device.clock()
        for new, length, seconds in work:
            kind, (base_w, slope_w) = ("prefill", self.prefill_w) if new > 1 else ("decode", self.decode_w)
            begun_s = device.clock()
            device.spend(base_w + slope_w * length, seconds)
            shares = (Share(0, "prefill" if new > 1 else "answer", new),)
            marks.append(StepMark(kind, begun_s, device.clock(), shares, (RowWork(new, length),)))
            truth.append((base_w + slope_w * length) * (device.clock() - begun_s) * 1e6)
            device.spend(self.idle_w, self.gap_s)
        end_s = device.clock()
        device.spend(self.idle_w, 0.3)
        readings = device.poller.log(before_s).readings
        return Run(readings, tuple(marks), start_s, end_s), truth
