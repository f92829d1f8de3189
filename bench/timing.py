"""Interleaved timing: every round runs every arm once, in an order shuffled anew; every sample is kept.

Knows no engine and no device: what is timed, how it is prepared and what waits for the device are passed in.
A machine that slows down for a while slows all arms of a round, so arms are compared round by round.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Clock = Callable[[], float]
_RESAMPLES = 1000
SETTLE_S = 0.02


class WrongAnswer(RuntimeError):
    """An arm computed something else than its reference; it is not timed."""


def nothing() -> None:
    """For what an arm does not need."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One arm. `run` is timed and does the work `repeats` times over; a sample is one of them.

    `setup` and `reset` run around it, untimed, each round: to set threads, to bring a pool of threads or
    a cache into the state of steady work, to turn to the next of several cold buffers, to roll back.
    `check` runs once before anything is timed and raises `WrongAnswer`. `most`: an arm too slow for more
    takes part in the first so many rounds only.
    """

    name: str
    run: Callable[[], object]
    setup: Callable[[], object] = nothing
    reset: Callable[[], object] = nothing
    check: Callable[[], object] = nothing
    repeats: int = 1
    most: int | None = None


def settle() -> None:
    """Let the arm before fall asleep: libgomp's threads, torch's as llama.cpp's, spin 300,000 times first.

    That is some milliseconds. Without this pause llama.cpp took 0.23 ms for a step of the bundled model,
    alone 0.17, and the `cpu` backend 3.9 instead of 0.5.
    """
    time.sleep(SETTLE_S)


class Watch:
    """Told of every timed run: `begin` right before it, `end` right after. The default does nothing."""

    def begin(self, arm: Timed) -> None:
        """Nothing."""

    def end(self, arm: Timed) -> None:
        """Nothing."""


def interleave(
    arms: Sequence[Timed],
    *,
    rounds: int,
    warmups: int = 1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    synchronise: Callable[[], object] = nothing,
    watch: Watch | None = None,
    budget_s: float | None = None,
    least: int = 3,
) -> dict[str, list[float]]:
    """Seconds of one repeat, by arm, one sample a round.

    `synchronise` waits for the device, before and after each run, inside the timed span. `budget_s`: no
    round begins that would, going by the last one, end later than this after the first; but `least`
    rounds always run. Raises `WrongAnswer` before anything is timed, `ValueError` for two arms of one name.
    """
    if len({arm.name for arm in arms}) < len(arms):
        raise ValueError(f"two arms of one name: {', '.join(arm.name for arm in arms)}")
    if rounds < 1 or least < 1:
        raise ValueError(f"at least one round, not {min(rounds, least)}")
    watching = watch or Watch()
    for arm in arms:
        arm.check()
    samples: dict[str, list[float]] = {arm.name: [] for arm in arms}
    shuffled = random.Random(seed)
    for _ in range(warmups):
        for arm in arms:
            _sample(arm, clock, synchronise, Watch())
    started = begun = clock()
    for index in range(rounds):
        for arm in shuffled.sample(arms, len(arms)):
            if arm.most is None or index < arm.most:
                samples[arm.name].append(_sample(arm, clock, synchronise, watching))
        ended = clock()
        if budget_s is not None and index + 1 >= least and ended - started + (ended - begun) > budget_s:
            break
        begun = ended
    return samples


def _sample(arm: Timed, clock: Clock, synchronise: Callable[[], object], watch: Watch) -> float:
    arm.setup()
    synchronise()
    watch.begin(arm)
    begun = clock()
    arm.run()
    synchronise()
    elapsed = clock() - begun
    watch.end(arm)
    arm.reset()
    return elapsed / arm.repeats


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as much a took as b. `rounds`: median of the rounds' own ratios, with its quartiles.

    `medians`: ratio of the two medians; `low`, `high`: its 95 % interval, by drawing rounds with
    replacement (bootstrap, percentiles).
    """

    rounds: float
    q1: float
    q3: float
    medians: float
    low: float
    high: float
    n: int


def ratio(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Ratio:
    """Of samples that stand side by side. Raises `ValueError` for fewer than two or unequal numbers."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a ratio needs pairs of samples, two at least, not {len(a)} and {len(b)}")
    each = [x / y for x, y in zip(a, b, strict=True)]
    q1, middle, q3 = quantiles(each, n=4, method="inclusive")
    drawn = random.Random(seed)
    found = []
    for _ in range(_RESAMPLES):
        picked = drawn.choices(range(len(a)), k=len(a))
        found.append(median(a[i] for i in picked) / median(b[i] for i in picked))
    cuts = quantiles(found, n=40, method="inclusive")
    return Ratio(middle, q1, q3, median(a) / median(b), cuts[0], cuts[-1], len(a))


def fastest(
    choices: Mapping[str, Callable[[], object]],
    *,
    trials: int = 3,
    enough_s: float = 3.0,
    clock: Clock = time.perf_counter,
) -> str:
    """The name of the choice whose shortest of `trials` interleaved runs is shortest; one run warms up.

    Slow ones have fewer trials: none begins after `enough_s`, but for the first.
    """
    shortest = dict.fromkeys(choices, float("inf"))
    started = clock()
    for trial in range(trials + 1):
        if trial > 1 and clock() - started > enough_s:
            break
        for name, run in choices.items():
            begun = clock()
            run()
            if trial:
                shortest[name] = min(shortest[name], clock() - begun)
    return min(shortest, key=lambda name: shortest[name])
