"""The requests behind an operating curve: sizes drawn at random, each run until the meter has seen it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from engine.energy.attribution import Share, StepMark
from engine.energy.curve_fit import Sample
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller
from engine.energy.power_model import Run
from engine.energy.report import EnergyReport
from engine.engine import Engine
from engine.errors import MeterError, TokenjouleError
from engine.memory import available_bytes

LEAST_S = 0.1  # of a sample: the CPU time of other threads comes in scheduler ticks of up to 4 ms
LEAST_TICKS = 10  # of a sample, on a meter that ticks
_UNKNOWN_TICK_S = 0.1  # the slowest that was seen, see docs/energy.md
_MOST_REPEATS = 64
_LEAST_PROMPT = 8
_DRAWS = 1000  # for one size that fits, before the limits are called impossible
_FREE_SHARE = 0.5  # of the memory, for the cache


@dataclass(frozen=True, slots=True)
class Size:
    """`rows` prompts of `prompt_tokens` each, and `new_tokens` for each row."""

    prompt_tokens: int
    new_tokens: int
    rows: int

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Taken:
    """A size as it was run: J and s of every repeat, the sample's account, and what a fit of powers sees."""

    size: Size
    energies_j: tuple[float, ...]
    elapsed_s: tuple[float, ...]
    report: EnergyReport
    run: Run

    @property
    def sample(self) -> Sample:
        size = self.size
        mean_j, mean_s = fmean(self.energies_j), fmean(self.elapsed_s)
        return Sample(size.prompt_tokens, size.new_tokens, size.rows, mean_j, mean_s, len(self.elapsed_s))


def sizes(
    context: int, rows: tuple[int, ...], fits: Callable[[Size], bool], rng: np.random.Generator
) -> Iterator[Size]:
    """Sizes without end that `fits` takes: rows evenly, tokens log-uniform within the context.

    Raises `TokenjouleError` where hardly any does.
    """
    longest = context - 1
    least = min(_LEAST_PROMPT, longest)
    while True:
        for _ in range(_DRAWS):
            prompt = _log_uniform(rng, least, longest)
            size = Size(prompt, _log_uniform(rng, 1, context - prompt), int(rng.choice(rows)))
            if fits(size):
                break
        else:
            raise TokenjouleError("hardly any request fits into the memory and the time that there are")
        yield size


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    return min(int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))), high)


# How a sampler's ledger books what it runs: as rows of their own, so that no request counts as idle.
_SAMPLE, _FILL = Share(0, "request", 1), Share(1, "fill", 1)

Prepare = Callable[[Size], Callable[[], Sequence[StepMark]]]


class Sampler:
    """Runs sizes on the device behind a poller. `prepare(size)` gives what runs one request, and its steps.

    Requests of a size are repeated back to back until they last, by `least_s`, long enough. On a meter that
    ticks, `filler` runs before and behind them, one tick and the sensor's tail each time: a tick that is half
    idle would be read too low for the request inside it.
    """

    def __init__(self, poller: Poller, prepare: Prepare, filler: Size) -> None:
        self._poller, self._prepare, self._filler = poller, prepare, filler

    @property
    def tick_s(self) -> float:
        if self._poller.fresh:
            return 0.0
        return self._poller.tick_s() or self._poller.meter.sensor.period_s or _UNKNOWN_TICK_S

    @property
    def least_s(self) -> float:
        return max(LEAST_S, LEAST_TICKS * self.tick_s)

    def take(self, size: Size) -> Taken:
        """Raises `MeterError` where the meter fails, `TokenjouleError` where a request does."""
        self._prepare(size)  # what a device compiles and captures for this size would idle in the account
        ledger = Ledger(self._poller)
        ledger.start()
        marks = self._fill(ledger)
        elapsed_s: list[float] = []
        while sum(elapsed_s) < self.least_s and len(elapsed_s) < _MOST_REPEATS:
            elapsed_s.append(self._book(ledger, size, _SAMPLE, marks))
        marks += self._fill(ledger)
        report = ledger.finish()
        if not report.complete:
            raise MeterError(f"the joules of a request are not known: {report.problem}")
        energies_j = tuple(joules for joules, _ in report.rows[_SAMPLE.row].by_forward.values())
        return Taken(size, energies_j, tuple(elapsed_s), report, ledger.run(marks))

    def _book(self, ledger: Ledger, size: Size, share: Share, marks: list[StepMark]) -> float:
        """Run one request as one step of the ledger, add its own steps to `marks`; its seconds."""
        request = self._prepare(size)
        ledger.begin("idle")
        marks += request()
        return ledger.end([share], kind="decode")

    def _fill(self, ledger: Ledger) -> list[StepMark]:
        """Keep the device busy until the ticks around the sample hold nothing of its rest; the steps."""
        marks: list[StepMark] = []
        if self._poller.fresh:
            return marks
        clock = self._poller.clock
        until_s = clock() + self.tick_s + self._poller.meter.sensor.tail_s
        while clock() < until_s:
            self._book(ledger, self._filler, _FILL, marks)
        return marks


class EngineRequests:
    """Requests of random tokens on an engine, which end at their limit and nowhere else."""

    def __init__(self, engine: Engine, rng: np.random.Generator) -> None:
        self._engine, self._rng = engine, rng

    def prepare(self, size: Size) -> Callable[[], Sequence[StepMark]]:
        """What runs one request of this size and gives its steps; cache and session are made before."""
        vocabulary = self._engine.model.config.vocab_size
        prompts = self._rng.integers(vocabulary, size=(size.rows, size.prompt_tokens)).tolist()
        session = self._engine.start(
            prompts, max_new_tokens=size.new_tokens, ignore_eos=True, share_prompts=False
        )  # random prompts of a token or two may be the same, and a row of the curve has its own

        def run() -> Sequence[StepMark]:
            steps = sum(1 for _ in session.steps())
            if steps != size.rows * size.new_tokens:
                failed = next((end.error for end in session.results() if end.error), "it ended early")
                raise TokenjouleError(f"a request of {size} failed: {failed}")
            return session.ledger.marks

        return run

    def fits(self, longest_s: float) -> Callable[[Size], bool]:
        """Whether a size takes at most half of the free memory, and as predicted `longest_s`."""
        free = available_bytes(self._engine.model.backend.device)
        model = self._engine.model

        def check(size: Size) -> bool:
            wanted = model.cache_bytes(size.rows * size.length, rows=2 * size.rows)
            if free is not None and wanted > _FREE_SHARE * free:
                return False
            prompts = [size.prompt_tokens] * size.rows
            return self._engine.predictor.request_seconds(prompts, size.new_tokens) <= longest_s

        return check
