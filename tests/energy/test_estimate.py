"""The CPU estimate: exact on an injected CPU clock, sane on the real one."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.energy.estimate import WATTS_VARIABLE, CpuEstimateMeter
from engine.energy.simulated import VirtualClock
from engine.errors import UsageError


class CpuClock:
    def __init__(self, busy_ns: int = 0) -> None:
        self.busy_ns = busy_ns

    def __call__(self) -> int:
        return self.busy_ns


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(WATTS_VARIABLE, raising=False)


def test_busy_time_times_watts(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    clock, cpu = VirtualClock(7.0), CpuClock(10**9)
    meter = CpuEstimateMeter(clock=clock, cpu_clock=cpu)
    assert meter.read().energy_uj == 0
    cpu.busy_ns += 1_500_000_000
    reading = meter.read()
    assert reading.energy_uj == 6_000_000  # 1.5 s x 4 W
    assert reading.time_s == 7.0
    clock.sleep(60.0)  # a process that waits costs nothing
    assert meter.read().energy_uj == 6_000_000
    assert meter.sensor.peak_w == 24.0
    assert (meter.sensor.period_s, meter.sensor.idle_w, meter.sensor.gain_error) == (0.0, 0.0, None)


def test_says_what_it_is():
    meter = CpuEstimateMeter(2.5)
    assert (meter.name, meter.measured) == ("estimate", False)
    for words in ("estimate", "2.5 W per core", "nothing was measured"):
        assert words in meter.note


@given(st.lists(st.integers(0, 10**12), max_size=30), st.floats(1e-3, 1e3))
def test_monotone(steps_ns, watts):
    cpu = CpuClock()
    meter = CpuEstimateMeter(watts, cpu_clock=cpu)
    last_uj = 0
    for step_ns in steps_ns:
        cpu.busy_ns += step_ns
        energy_uj = meter.read().energy_uj
        assert energy_uj >= last_uj
        last_uj = energy_uj
    assert last_uj == pytest.approx(cpu.busy_ns * watts / 1000, rel=1e-12, abs=1)


def test_watts_from_the_environment(monkeypatch):
    monkeypatch.setenv(WATTS_VARIABLE, "12.5")
    assert CpuEstimateMeter().watts_per_core == 12.5
    assert CpuEstimateMeter(3.0).watts_per_core == 3.0, "an argument comes first"


@pytest.mark.parametrize("text", ["", "lots", "0", "-4", "nan", "inf"])
def test_bad_environment(monkeypatch, text):
    monkeypatch.setenv(WATTS_VARIABLE, text)
    with pytest.raises(UsageError, match=WATTS_VARIABLE):
        CpuEstimateMeter()


@pytest.mark.parametrize("watts", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_argument(watts):
    with pytest.raises(UsageError, match="watts_per_core must be a positive number"):
        CpuEstimateMeter(watts)


def test_counts_the_threads_of_the_process():
    meter = CpuEstimateMeter(1.0)
    start_uj = meter.read().energy_uj

    def spin() -> None:
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
    assert meter.read().energy_uj - start_uj >= 50_000  # 50 ms x 1 W, and whatever the test itself used
