"""The protocol on a device of known power: rounds, order, idle baseline, spread gate, wrong counts."""

import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bench.experiments.occupancy import Observer
from bench.experiments.protocol import Cell, Runner, Settings, spread
from engine.energy.simulated import SimulatedProfile
from engine.errors import TokenjouleError
from tests.simulation import Device

PROMPT_S, TOKEN_S, PROMPT_W, TOKEN_W, IDLE_W = 0.001, 0.02, 600.0, 350.0, 90.0
PROFILE = SimulatedProfile(idle_w=IDLE_W, period_s=0.01, lag_s=0.0, window_s=0.0, resolution_uj=1)


class FakeEngine:
    """A prompt token takes 1 ms at 600 W, a new token behind the first 20 ms at 350 W, times `noise()`."""

    def __init__(self, device: Device, noise: Any = lambda new: 1.0, *, lacks: int = 0) -> None:
        self.device, self.poller, self.noise, self.lacks = device, device.poller, noise, lacks
        self.asked: list[tuple[int, int]] = []

    def start(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, ignore_eos: bool) -> Any:
        assert ignore_eos and len(prompts) == 1
        self.asked.append((len(prompts[0]), max_new_tokens))
        return SimpleNamespace(
            steps=lambda: self._steps(len(prompts[0]), max_new_tokens),
            results=lambda: [SimpleNamespace(error="out of pages")],
        )

    def _steps(self, prompt: int, new: int) -> Iterator[int]:
        self.device.spend(PROMPT_W, prompt * PROMPT_S)
        yield 0
        for _ in range(new - 1 - self.lacks):
            self.device.spend(TOKEN_W * self.noise(new), TOKEN_S)
            yield 0
        self.device.meter.enter("idle")


def true_j(prompt: int, new: int) -> float:
    return prompt * PROMPT_S * PROMPT_W + (new - 1) * TOKEN_S * TOKEN_W


def cell(prompt: int, new: int) -> Cell:
    return Cell(((1,) * prompt,), new, "prompts")


def run(engine: FakeEngine, cells: Sequence[Cell], **settings: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    device = engine.device
    runner = Runner(
        engine,  # type: ignore[arg-type]
        Settings(**{"window_s": 1.0, "cool_down_s": 0.5, "idle_s": 1.0, **settings}),
        Observer(None, clock=device.clock),
        said.append,
        sleep=lambda s: (device.meter.enter("idle"), device.sleep(s))[1],
    )
    return runner.run(cells), said


def test_every_cell_has_its_true_joules_gross_and_less_idle() -> None:
    cells = [cell(64, 1), cell(64, 16), cell(200, 8)]
    found, _ = run(FakeEngine(Device(PROFILE)), cells)
    assert found.idle_w == pytest.approx(IDLE_W, rel=1e-3)
    for each, samples in zip(cells, found.samples, strict=True):
        prompt, new = len(each.prompts[0]), each.new_tokens
        seconds = prompt * PROMPT_S + (new - 1) * TOKEN_S
        assert len(samples) == 3
        for sample in samples:
            assert sample.request_j == pytest.approx(true_j(prompt, new), rel=0.01)
            less = true_j(prompt, new) - IDLE_W * seconds
            assert sample.request_less_idle_j(found.idle_w) == pytest.approx(less, rel=0.015)
            assert sample.first_token_s == pytest.approx(prompt * PROMPT_S)
            assert sample.window.elapsed_s >= 1.0
            assert sample.requests == pytest.approx(sample.window.elapsed_s / seconds)


def test_several_prompts_are_run_through_whole() -> None:
    engine = FakeEngine(Device(PROFILE))
    three = Cell(((1,) * 10, (1,) * 20, (1,) * 60), 1, "three prompts")
    found, _ = run(engine, [three])
    assert three.prompt_tokens == 30
    assert all(sample.requests % 3 == 0 for sample in found.samples[0])
    assert found.samples[0][0].request_j == pytest.approx(true_j(30, 1), rel=0.01)
    assert engine.asked[:3] == [(10, 1), (20, 1), (60, 1)]


def test_every_round_has_an_order_of_its_own_and_a_seed_repeats_it() -> None:
    cells = [cell(8, new) for new in (1, 2, 3, 4, 5)]

    def orders(seed: int) -> list[list[int]]:
        engine = FakeEngine(Device(PROFILE))
        _, said = run(engine, cells, seed=seed, least_rounds=4)
        new = [int(line.partition(" + ")[2].split()[0]) for line in said if line.startswith("round")]
        return [new[i : i + 5] for i in range(0, len(new), 5)]

    first = orders(0)
    assert [sorted(order) for order in first] == [[1, 2, 3, 4, 5]] * 4
    assert len({tuple(order) for order in first}) > 1
    assert first == orders(0) != orders(1)


def test_only_what_scatters_is_measured_again_and_never_more_than_allowed() -> None:
    rng = random.Random(0)
    wild = FakeEngine(Device(PROFILE), lambda new: rng.choice((0.3, 3.0)) if new == 2 else 1.0)
    found, said = run(wild, [cell(1, 2), cell(1, 9)], window_s=0.0, spread=0.05, most_rounds=7)
    assert [len(samples) for samples in found.samples] == [7, 3]
    assert said[-1] == "1 of 2 cells still spread by more than 0.05"
    assert (spread(found.samples[0]) or 0) > 0.05 > (spread(found.samples[1]) or 1)


def test_the_idle_device_is_looked_at_before_and_behind() -> None:
    device = Device(PROFILE)
    engine = FakeEngine(device)
    found, _ = run(engine, [cell(4, 2)], cool_down_s=0.0)
    assert found.idle_before.elapsed_s == pytest.approx(1.0)
    assert found.idle_after.power_w == pytest.approx(IDLE_W, rel=0.01)


def test_a_request_that_ends_early_is_an_error_and_not_a_sample() -> None:
    with pytest.raises(TokenjouleError, match="4 tokens came where 5 were asked for: out of pages"):
        run(FakeEngine(Device(PROFILE), lacks=1), [cell(4, 5)])
