"""A device whose every joule is known, decoding a model that computes nothing: time is a variable.

`run` puts the real decode loop, ledger, poller and budget on it; only forward and clock are made up.
"""

import random
from dataclasses import dataclass
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch

from engine.cache import KVCache
from engine.decode import Decoder
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller
from engine.energy.predict import Predictor, StepPredictor, WarmUp
from engine.energy.simulated import SimulatedMeter, SimulatedProfile, VirtualClock
from engine.result import ModelCard
from engine.rows import Request
from engine.session import Origin, Session
from engine.steps import StopPolicy
from engine.stop.dial import Dial
from engine.thinking import ThinkingFormat
from engine.tokenizer import Tokenizer
from kernels.cost import Dims

EOS, THOUGHT, ANSWER, CLOSER, PREFIX = 0, ord("t"), ord("a"), ord("}"), ord("{")
FORMAT = ThinkingFormat(opener=None, closer="}", answer_prefix="{", step_separator="\n")
TOKENIZER = Tokenizer.bytes(256)
DIMS = Dims(2, 512, 2048, 8, 2, 64, 256, 4.0, 4.0, 4.0)

WARM_UP = WarmUp(18, 0.01, 16, 0.02)


class Device:
    """A virtual clock and a simulated meter on it. A poller that misses no tick stands beside them."""

    def __init__(self, profile: SimulatedProfile) -> None:
        self.clock = VirtualClock(1000.0)
        self.meter = SimulatedMeter(profile, clock=self.clock)
        self.poller = Poller(self.meter, clock=self.clock, sleep=self.sleep)
        self.poller.poll()

    def spend(self, watts: float, seconds: float) -> None:
        """The device draws `watts` for a while; the poller sees every tick of it."""
        self.meter.set_power(watts)
        self.sleep(seconds)

    def sleep(self, seconds: float) -> None:
        end_s = self.clock() + seconds
        while self.meter.profile.period_s and (tick_s := self.meter.next_tick_s(self.clock())) <= end_s:
            self.clock.jump(tick_s)
            self.poller.poll()
        self.clock.jump(end_s)


@dataclass(slots=True)
class Spent:
    """A forward that ran: seconds and the watts it drew."""

    kind: str
    start_s: float
    seconds: float
    watts: float


class FakeModel:
    """Thinks until closed, or for `closes_after` tokens; answers with `answer_tokens` tokens and an EOS.

    `cost(kind, tokens)` gives (seconds, watts) of each forward.
    """

    def __init__(
        self,
        device: Device,
        cost: Any,
        *,
        answer_tokens: int,
        closes_after: int | None = None,
        context: int = 8192,
    ) -> None:
        self.config = SimpleNamespace(n_layers=0, max_context=context, vocab_size=256)
        self.device, self.cost, self.answer_tokens = device, cost, answer_tokens
        self.backend = SimpleNamespace(device=torch.device("cpu"))
        self.forwards: list[Spent] = []
        self._answered: int | None = None
        self._thoughts, self._closes_after = 0, closes_after

    kept_bytes = 0

    def cache_bytes(self, tokens: int, *, rows: int = 1) -> int:
        return 0

    def new_cache(self, tokens: int, *, rows: int = 1) -> KVCache:
        return KVCache(
            (),
            pages=tokens // 16 + 1 + rows,
            page_size=16,
            frequencies=torch.ones(1),
            rope_factor=1.0,
            device=torch.device("cpu"),
        )

    request_cache = new_cache

    def device_loop(self, *given: Any, **options: Any) -> None:
        return None

    def forward(self, tokens: Any, layout: Any, cache: Any, *, taps: Any = ()) -> Any:
        prefill = layout.rows[0].start == 0 and layout.rows[0].length == len(tokens) and len(tokens) > 2
        kind = "prefill" if prefill else "decode"
        seconds, watts = self.cost(kind, len(tokens))
        self.forwards.append(Spent(kind, self.device.clock(), seconds, watts))
        self.device.spend(watts, seconds)
        if PREFIX in tokens:
            self._answered = 0
        self._thoughts += 1
        chosen = PREFIX if CLOSER in tokens else THOUGHT
        if self._closes_after is not None and self._thoughts == self._closes_after:
            chosen = CLOSER
        if self._answered is not None:
            chosen = EOS if self._answered == self.answer_tokens else ANSWER
            self._answered += 1
        logits = torch.zeros(len(layout.rows), 256)
        logits[:, chosen] = 1.0
        return logits, {}


def run(
    device: Device,
    model: FakeModel,
    policies: list[StopPolicy],
    *,
    prompt_tokens: int = 20,
    answer_tokens: int = 8,
    max_new_tokens: int = 4000,
    warm_up: WarmUp = WARM_UP,
    budget_j: float | None = None,
    predictor: Predictor | None = None,
) -> tuple[Session, Any]:
    """One request on the simulated device; returns (session, result). `predictor` replaces the warm-up's."""
    predictor = predictor or StepPredictor(DIMS, warm_up)
    prior_w = predictor.curve.power_w([prompt_tokens]) if predictor.curve else None
    ledger = Ledger(device.poller, predictor=predictor, prior_w=prior_w)
    request = Request(
        prompt_ids=tuple(range(1, prompt_tokens + 1)),
        max_new_tokens=max_new_tokens,
        eos_ids=frozenset({EOS}),
        policies=tuple(policies),
    )
    decoder = Decoder(
        model,  # type: ignore[arg-type]
        TOKENIZER,
        [request],
        ledger,
        thinking=FORMAT,
        answer_tokens=answer_tokens,
        dial=Dial(budget_j=budget_j),
    )
    card = ModelCard("simulated", "none", 0, "float32", "none", True)
    session = Session(decoder, ledger, Origin(card, "none", "simulated", DIMS, 0.0), (), Lock())
    for _ in session.steps():
        pass
    [result] = session.results()
    return session, result


def true_j(device: Device, start_s: float, end_s: float) -> float:
    return (device.meter.true_energy_uj(end_s) - device.meter.true_energy_uj(start_s)) * 1e-6


def random_profile(rng: random.Random, *, gain: float = 1.0) -> SimulatedProfile:
    """A sensor with a period of 10-100 ms, and a device between 100 and 1000 W."""
    peak_w = rng.uniform(100, 1000)
    return SimulatedProfile(
        idle_w=rng.uniform(0.1, 0.3) * peak_w,
        prefill_w=peak_w,
        decode_w=peak_w,
        period_s=rng.uniform(0.01, 0.1),
        phase_s=rng.uniform(0, 0.01),
        window_s=rng.choice([0.0, 0.01, 0.025]),
        lag_s=rng.uniform(0, 0.05),
        gain=gain,
    )
