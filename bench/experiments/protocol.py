"""How one model's cells are measured: idle, warm-up, rounds in shuffled order, idle again.

Every round runs every cell once, in an order shuffled anew: sample i of one cell stands beside sample i of
another, and a device that warms up touches all of them alike. A window repeats the cell's requests, one at a
time, until the sensor has moved often enough; between windows the device cools down. What the engine does
between two requests, to prepare the next, is in it. Rounds go on for the cells that still scatter. Knows an
engine and its meter, neither records nor files.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev

from bench.experiments.occupancy import Observer, Occupancy, named
from bench.repeated import Repeated, idle, repeat
from engine.engine import Engine
from engine.errors import TokenjouleError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """`window_s`: at least so long, and never under 20 ticks of the meter. `idle_s`: of each baseline.

    `least_rounds` to `most_rounds`: more than the least only for cells whose `spread` (standard deviation
    over mean of their windows) is above the limit.
    """

    window_s: float = 2.0
    cool_down_s: float = 5.0
    idle_s: float = 3.0
    least_rounds: int = 3
    most_rounds: int = 10
    spread: float = 0.05
    seed: int = 0

    def __str__(self) -> str:
        """For records, and to tell cells that were measured alike from others."""
        return (
            f"windows of {self.window_s:g} s, {self.cool_down_s:g} s between, {self.least_rounds} to "
            f"{self.most_rounds} rounds until they spread by {self.spread:g}, idle {self.idle_s:g} s, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured point: these prompts, one after the other, each continued by exactly `new_tokens`.

    `requests`: what the prompts are, in words.
    """

    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    requests: str

    @property
    def prompt_tokens(self) -> float:
        """Their mean."""
        return mean(len(prompt) for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class Sample:
    """One window of one cell. `first_token_s`: median of its requests."""

    window: Repeated
    requests: int
    first_token_s: float
    occupancy: Occupancy

    @property
    def request_j(self) -> float | None:
        """Gross."""
        return None if self.window.energy_j is None else self.window.energy_j / self.requests

    def request_less_idle_j(self, idle_w: float | None) -> float | None:
        """Above what the device draws when idle."""
        if self.window.energy_j is None or idle_w is None:
            return None
        return (self.window.energy_j - idle_w * self.window.elapsed_s) / self.requests


@dataclass(frozen=True, slots=True)
class Measured:
    """All windows of one model's cells; the idle device before the first and behind the last.

    `spread_limit`: above it a cell was measured again, as often as allowed.
    """

    cells: tuple[Cell, ...]
    samples: tuple[tuple[Sample, ...], ...]
    idle_before: Repeated
    idle_after: Repeated
    spread_limit: float

    @property
    def idle_w(self) -> float | None:
        """Mean of both; None where the meter failed in one of them."""
        before, after = self.idle_before.power_w, self.idle_after.power_w
        return None if before is None or after is None else (before + after) / 2


def spread(samples: Sequence[Sample]) -> float | None:
    """Standard deviation over mean of the windows' joules; None for fewer than two, or without joules."""
    joules = [sample.request_j for sample in samples if sample.request_j is not None]
    if len(joules) < 2 or len(joules) < len(samples) or mean(joules) <= 0:
        return None
    return stdev(joules) / mean(joules)


@dataclass
class Runner:
    """Measures the cells of one loaded model. `say` hears of every window."""

    engine: Engine
    settings: Settings
    observer: Observer
    say: Say
    sleep: Callable[[float], None] = time.sleep
    _first_s: list[float] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> Measured:
        """Every cell in at least `least_rounds` rounds. Raises `TokenjouleError` for a request that fails."""
        settings, draw = self.settings, random.Random(self.settings.seed)
        self.say(f"idle for {settings.idle_s:g} s")
        self.sleep(settings.cool_down_s)
        before = idle(self.engine.poller, settings.idle_s, sleep=self.sleep)
        self._warm_up(cells)
        samples: list[list[Sample]] = [[] for _ in cells]
        for number in range(1, settings.most_rounds + 1):
            due = [index for index in range(len(cells)) if self._due(number, samples[index])]
            for place, index in enumerate(draw.sample(due, len(due)), 1):
                self.sleep(settings.cool_down_s)
                sample = self._window(cells[index])
                samples[index].append(sample)
                self._tell(f"round {number}, window {place} of {len(due)}", cells[index], sample)
            if not due:
                break
        self.sleep(settings.cool_down_s)
        after = idle(self.engine.poller, settings.idle_s, sleep=self.sleep)
        wild = sum((spread(found) or 0.0) > settings.spread for found in samples)
        if wild:
            self.say(f"{wild} of {len(cells)} cells still spread by more than {settings.spread:g}")
        return Measured(tuple(cells), tuple(map(tuple, samples)), before, after, settings.spread)

    def _due(self, number: int, samples: Sequence[Sample]) -> bool:
        if number <= self.settings.least_rounds:
            return True
        found = spread(samples)
        return found is not None and found > self.settings.spread

    def _warm_up(self, cells: Iterable[Cell]) -> None:
        """Every cell once, whatever it compiles or captures, and then on until a window's time is over."""
        self.say("warming up")
        cells = list(cells)
        started_s = self.engine.poller.clock()
        for cell in cells:
            self._pass(cell)
        while self.engine.poller.clock() - started_s < self.settings.window_s:
            self._pass(cells[0])

    def _window(self, cell: Cell) -> Sample:
        self._first_s = []
        self.observer.begin()
        window = repeat(self.engine.poller, lambda: self._pass(cell), seconds=self.settings.window_s)
        occupancy = self.observer.end()
        return Sample(window, window.calls * len(cell.prompts), median(self._first_s), occupancy)

    def _pass(self, cell: Cell) -> None:
        for prompt in cell.prompts:
            self._first_s.append(self._request(prompt, cell.new_tokens))

    def _request(self, prompt: Sequence[int], new_tokens: int) -> float:
        """Seconds to the first token. Its joules are the window's business: nothing waits for a tick."""
        begun_s = self.engine.poller.clock()
        session = self.engine.start([prompt], max_new_tokens=new_tokens, ignore_eos=True)
        first_s, count = 0.0, 0
        for _ in session.steps():
            count += 1
            if count == 1:
                first_s = self.engine.poller.clock() - begun_s
        if count != new_tokens:
            error = session.results()[0].error or "the request ended early"
            raise TokenjouleError(f"{count} tokens came where {new_tokens} were asked for: {error}")
        return first_s

    def _tell(self, where: str, cell: Cell, sample: Sample) -> None:
        joules = "energy not measured" if sample.request_j is None else f"{sample.request_j:.4g} J"
        others = ", ".join(named([sample.occupancy.others]))
        beside = f"; also at work: {others}" if others else ""
        self.say(
            f"{where}: {cell.prompt_tokens:.0f} + {cell.new_tokens} tokens, {sample.requests} requests of "
            f"{joules} in {sample.window.elapsed_s / sample.requests:.3g} s{beside}"
        )
