"""Pieces of `bench.gpu` that meet a GPU on the day alone, here with what stands in for one."""

import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench import fidelity
from bench.contender import fill
from bench.cuda import fidelity as device_fidelity
from bench.cuda import overhead, prefill, sensor, smoke
from bench.cuda.cases import block_j, filled, run_case
from bench.cuda.decode import ours
from bench.cuda.device_source import DeviceSource
from bench.cuda.device_time import graph_timed
from bench.cuda.setting import TINY, Setting, near
from bench.cuda.stage_peers import product_peers
from bench.gpu_table import everything_gpu, holds
from bench.no_meter import NoMeter
from bench.peers.transformers_device import DeviceTransformers, Mode
from bench.record import Case, Record, read
from bench.stamp import stamp
from bench.timing import Timed, WrongAnswer
from engine.energy.meter import Reading, Sensor
from engine.energy.poller import Poller
from engine.energy.power_recording import PowerRecording, recording_of
from engine.energy.sources import open_meter
from engine.errors import MeterError, TokenjouleError
from tests.energy.fake_nvml import UUID, FakeNvml

CPU = torch.device("cpu")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    where = stamp("bench.gpu", [], CPU, run="r1")
    out = tmp_path / "records.jsonl"
    return Setting("smoke", CPU, "torch", TINY, where, "estimate", out, time.monotonic() + 60)


def records(setting: Setting) -> list[Record]:
    assert setting.out is not None
    return list(read([setting.out]))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr("engine.energy.nvml.uuid_of_cuda_device", lambda index: UUID)
    return fake


def test_the_meter_is_checked(setting: Setting, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Pretend 9000")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(smoke.time, "sleep", lambda seconds: setattr(nvml, "counter_mj", 6_000))
    smoke.meter(replace(setting, device=torch.device("cuda", 0)))
    assert {r.arm.name: holds(r) for r in records(setting)} == {
        "uuid": True,
        "counter rises": True,
        "instant power": True,
        "power draw": True,
    }
    nvml.instant_mw = None
    smoke.meter(replace(setting, device=torch.device("cuda", 0)))
    again = {r.arm.name: holds(r) for r in records(setting)[4:]}
    assert not again["counter rises"], "it stood still"
    assert not again["instant power"] and again["power draw"]


def test_joules_of_blocks_are_read_at_ticks(setting: Setting, nvml: FakeNvml) -> None:
    on_device = replace(setting, device=torch.device("cuda", 0))
    looks = 0
    real = nvml.nvmlDeviceGetTotalEnergyConsumption

    def ticking(handle: object) -> int:
        nonlocal looks
        looks += 1
        return real(handle) + 500 * (looks // 3)  # three looks a tick of 0.5 J

    nvml.nvmlDeviceGetTotalEnergyConsumption = ticking
    with overhead.counter(on_device) as ticked:
        first = ticked()
        assert ticked() - first == 0.5
        assert overhead.joules_of(lambda: time.sleep(0.001) or 0.0, 10, 0.01, ticked) > 0
    nvml.nvmlDeviceGetTotalEnergyConsumption = real
    with overhead.counter(on_device) as ticked, pytest.raises(MeterError, match="does not tick"):
        ticked()
    with pytest.raises(MeterError, match="no GPU"), overhead.counter(setting):
        pass


def recorded(counter: bool = True) -> PowerRecording:
    """100 W for 4 s, then 300 W for half a second at a time: 10 s in all."""
    at_s = np.arange(0, 10, 0.005)
    marks_s = np.arange(4.0, 9.1, 0.5)
    watts = np.where((at_s >= 4) & (at_s < 9) & (((at_s - 4) // 0.5) % 2 == 0), 300.0, 100.0)
    watts += np.repeat(np.random.default_rng(0).normal(0, 0.5, len(at_s) // 20), 20)  # every 100 ms anew
    arrays: dict[str, Any] = {
        "sensor_t_ms": at_s * 1e3,
        "sensor_instant_w": np.repeat(watts[::20], 20),
        "sensor_draw_w": np.full(len(at_s), np.nan),
        "load_mark_t_ms": marks_s * 1e3,
        "gpu": np.array("a GPU"),
        "driver": np.array("580"),
    }
    if counter:
        joules = np.cumsum(watts) * 0.005
        arrays |= {"time_s": at_s, "energy_j": np.repeat(joules[::20], 20)}
    return recording_of(Path("sensor.npz"), arrays)


@pytest.mark.parametrize("counter", [True, False])
def test_the_sensor_part_tells_idle_power_and_compares_counter_and_power(
    counter: bool, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []

    def record_gpu(device: int, path: Path | None, *, wave_s: float) -> PowerRecording:
        kept.append(path)
        return recorded(counter)

    monkeypatch.setattr(sensor, "record_gpu", record_gpu)
    profiled: list[str] = []

    def keep_profiles(characterised: Any) -> None:
        profiled.extend(one.channel for one in characterised)
        raise TokenjouleError("no room")  # a profile that cannot be kept costs the records nothing

    monkeypatch.setattr(sensor, "keep_profiles", keep_profiles)
    sensor.run(replace(setting, part="sensor"))
    assert setting.out is not None and kept == [setting.out.with_name("sensor.npz")]
    found = {r.case.phase: r for r in records(setting)}
    compared = found["compare"].derived
    assert compared["idle"].value == pytest.approx(100, abs=1) and compared["idle"].measured
    assert set(found) == {"compare", "instant"} | ({"counter"} if counter else set())
    if counter:
        assert compared["counter_over_power"].value == pytest.approx(1, abs=0.05)
    else:
        assert compared["counter_over_power"].value is None
    period = found["instant"].derived["period"].value
    assert period == pytest.approx(0.1, abs=0.01)
    assert set(profiled) == set(found) - {"compare"}, "what later parts start from"
    assert "sensor: sensor compare" in everything_gpu(records(setting))


@pytest.mark.parametrize("mode", Mode)
def test_transformers_gives_the_same_logits_in_every_mode_and_rolls_back(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def compile(forward: Callable[..., object], **how: object) -> Callable[..., object]:
        asked.append(how)
        return forward

    monkeypatch.setattr(torch, "compile", compile)
    source = DeviceSource.open(None, CPU, torch.float32)
    held = fill(source.config, source.dtype, 2, 9, room=8)
    own = ours(_on_cpu(), source).start(held, 2)
    theirs = DeviceTransformers(source, mode)
    decoding = theirs.start(held, 2)
    first = decoding.logits()
    assert torch.allclose(first, own.logits(), atol=1e-3)
    for _ in range(3):
        decoding.step()
    decoding.rollback()
    assert torch.equal(decoding.logits(), first)
    assert decoding.bytes == pytest.approx(own.bytes, rel=0.02)
    assert asked == ([{"mode": "reduce-overhead", "dynamic": False}] if mode is Mode.COMPILED else [])
    assert theirs.arm.backend == mode.value
    held_by_it = weakref.ref(decoding._static)
    decoding.close()
    assert held_by_it() is None, "a graph and its cache would wait for the garbage collector"


def _on_cpu() -> Setting:
    where = stamp("bench.gpu", [], CPU, run="r1")
    return Setting("decode", CPU, "torch", TINY, where, "estimate", None, time.monotonic() + 60)


def test_an_arm_that_fails_is_left_out_by_name_and_the_others_are_measured(setting: Setting) -> None:
    source = DeviceSource.open(None, CPU, torch.float32)
    good, bad, wrong = (ours(setting, source, name=name) for name in ("good", "bad", "wrong"))

    def fails(*_: object) -> Any:
        raise RuntimeError("no graph of this")

    bad.start = fails  # type: ignore[method-assign]
    start = wrong.start

    def other(*given: Any) -> Any:
        decoding = start(*given)
        decoding.logits = lambda: -good.start(*given).logits()  # type: ignore[method-assign]
        return decoding

    wrong.start = other  # type: ignore[method-assign]
    readers = [_reader()]
    case = Case("m", True, "decode", 1, 9)
    cache = filled(setting, source, 1, 9)
    found = run_case(setting, [good, bad, wrong], cache, case, "x", readers)
    assert [r.arm.name for r in found] == ["good"]
    lost = {r.arm.name: r.metrics["step_s"].reason for r in records(setting) if "step_s" in r.metrics}
    assert lost["bad"] == "no graph of this" and "is allowed" in str(lost["wrong"]) and lost["good"] is None


def _reader() -> Any:
    from bench.bandwidth import Reader

    return Reader(Timed("read: a reader", lambda: None), 1000, "float32", None)


def test_a_block_of_joules_says_what_kept_it_from_being_measured(setting: Setting) -> None:
    source = DeviceSource.open(None, CPU, torch.float32)
    contender, cache = ours(setting, source), filled(setting, source, 1, 9)
    from bench.cells import Cell

    case = Case("m", True, "decode", 1, 9)
    cell = Cell(contender, contender.start(cache, TINY.steps), case, "x")
    setting = replace(setting, scale=replace(TINY, energy_s=0.2))
    value = block_j(setting, cell)
    assert value.value is not None and value.value > 0 and value.measured is False
    assert cache.cache.length(cache.ids[0]) == cache.start, "rolled back"
    refused = block_j(replace(setting, energy_source="nvml"), cell)
    assert refused.value is None and "MeterError" in str(refused.reason)


def test_a_graph_is_not_timed_before_its_answer_is_right() -> None:
    calls: list[int] = []

    def check() -> None:
        raise WrongAnswer("planted")

    with pytest.raises(WrongAnswer):
        graph_timed("x", calls.append, 3, CPU, check=check)
    assert calls == []
    timed = graph_timed("x", calls.append, 3, CPU)
    timed.run()
    assert calls == [0, 1, 2] and timed.repeats == 3


def test_near_counts_what_is_not_a_number_as_wrong() -> None:
    ones = torch.ones(3)
    assert near(ones, ones * 1.5, 0.1) == (0.5, pytest.approx(0.15))
    assert near(torch.full((3,), float("nan")), ones, 0.1)[0] == float("inf")
    with pytest.raises(ValueError, match="expected"):
        near(torch.ones(2), ones, 0.1)


class Ticking:
    """A meter that has to be polled, as NVML's counter has."""

    name, measured, device, note = "ticking", False, "none", ""
    sensor = Sensor(period_s=None)

    def read(self) -> Reading:
        now_s = time.monotonic()
        return Reading(now_s, now_s, int(now_s * 100))

    def close(self) -> None:
        """Nothing is held."""


def test_the_arm_without_a_meter_runs_while_nobody_reads_the_other_arms_meter(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded:
        """Of an engine what the part asks for."""

        origin = SimpleNamespace(card=SimpleNamespace(id="m"))

        def __init__(self, meter: Any) -> None:
            self.poller = Poller(meter)

        def __enter__(self) -> "Loaded":
            self.poller.start()
            return self

        def __exit__(self, *_: object) -> None:
            self.poller.stop()

    bare, metered = Loaded(NoMeter()), Loaded(Ticking())
    load = {True: bare, False: metered}
    monkeypatch.setattr(overhead, "Engine", SimpleNamespace(load=lambda model, **how: load["meter" in how]))
    reads: dict[bool, list[int]] = {True: [], False: []}

    def step_s(engine: Any, tokens: int, **_: object) -> float:
        before = metered.poller.reads
        time.sleep(0.05)
        reads[engine is bare].append(metered.poller.reads - before)
        return 0.02

    monkeypatch.setattr(overhead, "step_s", step_s)
    overhead.run(replace(setting, part="overhead"))
    assert len(reads[True]) == 3 and not any(reads[True]), "the baseline paid for the other arm's meter"
    assert len(reads[False]) == 6 and all(reads[False]), "read again as soon as its own arm runs"


def test_a_compiled_peer_is_compiled_for_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda work, *, mode, dynamic: real(work, backend=counter, dynamic=dynamic)
    )
    for columns in range(16, 27):  # more cases than Dynamo keeps compilations of one function
        work: Any = SimpleNamespace(vectors=torch.ones(1, columns), matrices=[torch.ones(8, columns)] * 2)
        *_, compiled = product_peers(work, compiles=True)
        assert torch.equal(compiled.call(0), compiled.expected()) and compiled.name.startswith("Inductor")
        compiled.call(1)
    assert counter.frame_count == 11, "a case beyond the eighth was timed in eager under the compiler's name"


def test_an_arm_of_prefill_that_fails_leaves_the_others(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Any:
        raise torch.OutOfMemoryError("no room for these logits")

    monkeypatch.setattr(DeviceTransformers, "prefill", fails)
    prefill.run(replace(setting, part="prefill"))
    found = {r.arm.name: r.metrics["step_s"] for r in records(setting)}
    assert found["torch none"].samples
    assert found["transformers eager"].reason == "OutOfMemoryError: no room for these logits"


def test_an_arm_of_fidelity_that_fails_leaves_the_others(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_arm(arms: Any, *_: object) -> Any:
        [arm] = arms
        if arm.name == "torch none":
            raise RuntimeError("a kernel that does not compile")
        yield from ()
        asked.append(arm.name)

    asked: list[str] = []
    monkeypatch.setattr(fidelity, "default_models", lambda: ["bundled"])
    monkeypatch.setattr(fidelity.Subject, "of", lambda model, device: SimpleNamespace(id=model))
    monkeypatch.setattr(fidelity, "records", of_arm)
    device_fidelity.run(replace(setting, part="fidelity", backend="gpu"))
    assert asked == ["transformers none", "gpu none"]
    [lost] = records(setting)
    assert lost.arm.name == "torch none" and "does not compile" in str(lost.metrics["step_s"].reason)


def test_engines_of_fidelity_are_given_a_meter_that_their_device_has(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def load(directory: Path, *, device: str | int, energy_source: str, **_: object) -> None:
        meter = open_meter(energy_source, cuda_device=device if isinstance(device, int) else None)
        opened.append(meter.name)
        meter.close()

    monkeypatch.setattr(fidelity, "Engine", SimpleNamespace(load=load))
    fidelity._load(Path("x"), fidelity.REFERENCE, CPU)
    fidelity._load(Path("x"), fidelity.REFERENCE, torch.device("cuda", 0))
    assert opened == ["estimate", "nvml"]
