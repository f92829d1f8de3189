"""What hooks and the meter cost: generations with and without, in turn; step time, joules of blocks.

Joules of both come from two looks at the driver's counter, each at a tick, so that the arm without a meter is
left alone in between.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from bench.cuda.setting import HOOKED, METER, OFF, Setting, arm_of, first_line, spread
from bench.hook_overhead import Idle
from bench.no_meter import NoMeter
from bench.record import Case, Metric, Record, Value
from bench.timing import ratio
from engine.energy.poller import Poller
from engine.engine import Engine
from engine.errors import MeterError

ROUNDS = 12


def run(setting: Setting) -> None:
    """The small model: the shorter a step, the more of it overhead is."""
    model = setting.scale.models[0]
    preset = model is not None and model.startswith("preset:")
    on_device = setting.device.type == "cuda"

    def load(**how: Any) -> Engine:
        return Engine.load(
            model,
            random_weights=preset,
            backend=setting.backend,
            device=setting.cuda_device if on_device else "cpu",
            dtype="bf16",
            **how,
        )

    with load(meter=NoMeter()) as bare, load(energy_source=setting.energy_source) as metered:

        def without() -> float:
            with at_rest(metered.poller):
                return step_s(bare, setting.scale.new_tokens)

        arms: dict[str, Callable[[], float]] = {
            OFF: without,
            METER: lambda: step_s(metered, setting.scale.new_tokens),
            HOOKED: lambda: step_s(metered, setting.scale.new_tokens, hooks=[Idle()]),
        }
        case = Case(bare.origin.card.id, preset, "decode", 1, 1, setting.scale.new_tokens)
        _times(setting, arms, case)
        if setting.scale.energy_s:
            _joules(setting, arms, case)


@contextmanager
def at_rest(poller: Poller) -> Iterator[None]:
    """The meter is not read in here: an engine's poller runs from its loading on, in this very process."""
    poller.stop()
    try:
        yield
    finally:
        poller.start()


def step_s(engine: Engine, tokens: int, **options: Any) -> float:
    """Seconds a step between the first token and the last of one generation."""
    session = engine.start([[1]], max_new_tokens=tokens, ignore_eos=True, **options)
    stamps = [time.perf_counter() for _ in session.steps()]
    result = session.results()[0]
    if result.error:
        raise RuntimeError(result.error)
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def _times(setting: Setting, arms: dict[str, Callable[[], float]], case: Case) -> None:
    shuffled, names = random.Random(0), list(arms)
    taken: dict[str, list[float]] = {name: [] for name in arms}
    rounds = ROUNDS if setting.device.type == "cuda" else 2
    for index in range(rounds + 1):
        for name in shuffled.sample(names, len(names)):
            seconds = arms[name]()
            if index:  # the first round captures
                taken[name].append(seconds)
    group = setting.group("hooks and meter")
    for name in names:
        over = ratio(taken[name], taken[OFF])
        derived = {
            "over_off": Value("1", over.medians, over.low, over.high, source="step time"),
            "over_off_rounds": Value("1", over.rounds, over.q1, over.q3, source="step time, by rounds"),
        }
        arm = arm_of(setting, "none", name)
        setting.emit(
            Record(
                setting.benchmark, setting.where, arm, case, group, {"step_s": spread(taken[name])}, derived
            )
        )
        setting.say(f"{name}: {median(taken[name]) * 1e6:.1f} µs a step, {over.medians - 1:+.2%}")


def _joules(setting: Setting, arms: dict[str, Callable[[], float]], case: Case) -> None:
    """Blocks in turn, twice; J per token of each arm, in one record each."""
    group = setting.group("joules of hooks and meter")
    found: dict[str, list[float]] = {OFF: [], HOOKED: []}
    try:
        with counter(setting) as ticked:
            for _ in range(2):
                for name, samples in found.items():
                    samples.append(joules_of(arms[name], case.new_tokens, setting.scale.energy_s, ticked))
    except Exception as error:
        setting.say(f"joules: NOT MEASURED: {first_line(error)}")
        for name in found:
            setting.failed(arm_of(setting, "none", name), case, error, "joules of hooks and meter")
        return
    for name, samples in found.items():
        energy = Value("J/tok", median(samples), min(samples), max(samples), "nvml, whole ticks", True)
        waits = "" if name == OFF else "; every generation waits for a tick at its end, and that is in it"
        arm = arm_of(setting, "none", name, f"interval: least and most of two blocks{waits}")
        metrics = {"energy_j": Metric("J/tok", tuple(samples))}
        setting.emit(Record(setting.benchmark, setting.where, arm, case, group, metrics, {"energy": energy}))


@contextmanager
def counter(setting: Setting) -> Iterator[Callable[[], float]]:
    """Gives what waits for the counter's next tick and tells its joules."""
    from engine.energy.nvml import NvmlReadings, uuid_of_cuda_device

    if setting.cuda_device is None:
        raise MeterError("there is no GPU whose counter could be read")
    readings = NvmlReadings(uuid_of_cuda_device(setting.cuda_device))

    def ticked() -> float:
        first = readings.counter_j()
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            now = readings.counter_j()
            if now is None:
                break
            if now != first:
                return now
        raise MeterError("the counter does not tick")

    try:
        yield ticked
    finally:
        readings.close()


def joules_of(arm: Callable[[], float], tokens: int, seconds: float, ticked: Callable[[], float]) -> float:
    """Joules per token of generations one after the other, from the tick before to the tick after them.

    Waiting for the last tick, at most 0.1 s of idling, is in it: 2 % of 5.5 s at a fifth of the power.
    """
    before, begun_s, done = ticked(), time.monotonic(), 0
    while time.monotonic() - begun_s < seconds:
        arm()
        done += tokens
    return (ticked() - before) / done
