"""Windows by repetition against a device whose joules are known."""

import pytest

from bench.repeated import LEAST_TICKS, idle, least_seconds, repeat
from engine.energy.meter import Reading, Sensor
from engine.energy.poller import Poller
from engine.energy.simulated import SimulatedProfile, VirtualClock
from engine.errors import MeterError
from tests.simulation import Device


@pytest.mark.parametrize("call_s", [0.0007, 0.0131, 0.31])
@pytest.mark.parametrize("period_s", [0.01, 0.1])
def test_a_calls_joules_are_its_powers_and_the_interval_holds_them(call_s: float, period_s: float) -> None:
    device = Device(SimulatedProfile(period_s=period_s, lag_s=0.013, window_s=0.7 * period_s))
    device.sleep(0.4 * period_s)  # the window begins inside a tick, of which a part is not its own
    found = repeat(device.poller, lambda: device.spend(350.0, call_s), seconds=1.0)
    assert found.elapsed_s >= max(1.0, LEAST_TICKS * period_s) - 1e-9
    assert found.calls == pytest.approx(found.elapsed_s / call_s, abs=1e-6)
    assert found.call_j is not None and found.uncertainty_j is not None
    assert found.call_j == pytest.approx(350.0 * call_s, rel=0.015)
    assert abs(found.call_j - 350.0 * call_s) <= found.uncertainty_j / found.calls
    assert found.ticks >= LEAST_TICKS - 1


def test_a_window_shorter_than_twenty_ticks_is_made_longer_and_a_fresh_meter_needs_none() -> None:
    slow = Device(SimulatedProfile(period_s=0.1))
    assert least_seconds(slow.poller, 0.5) == pytest.approx(2.0)
    assert least_seconds(slow.poller, 5.0) == 5.0
    fresh = Device(SimulatedProfile(period_s=0.0))
    assert least_seconds(fresh.poller, 0.5) == 0.5


def test_idle_joules_are_taken_off() -> None:
    device = Device(SimulatedProfile(idle_w=90.0, period_s=0.01, lag_s=0.0, window_s=0.0))
    baseline = idle(device.poller, 1.0, sleep=device.sleep)
    assert baseline.power_w == pytest.approx(90.0, rel=1e-3)
    found = repeat(device.poller, lambda: device.spend(390.0, 0.05), seconds=1.0)
    assert found.call_less_idle_j(baseline.power_w) == pytest.approx(300.0 * 0.05, rel=0.01)
    assert found.call_less_idle_j(None) is None


def test_a_long_call_is_made_once_and_not_cut() -> None:
    device = Device(SimulatedProfile(period_s=0.0))
    found = repeat(device.poller, lambda: device.spend(100.0, 30.0), seconds=0.1)
    assert (found.calls, found.elapsed_s) == (1, pytest.approx(30.0))


def test_a_meter_that_fails_in_the_middle_leaves_no_joules_and_says_why() -> None:
    clock = VirtualClock()

    class Failing:
        name, measured, device, note, sensor = "failing", True, "a device", "", Sensor(period_s=0.01)
        reads = 0

        def read(self) -> Reading:
            self.reads += 1
            if self.reads > 5:
                raise MeterError("the driver is gone")
            return Reading(clock(), clock(), self.reads * 1000)

        def close(self) -> None: ...

    poller = Poller(Failing(), clock=clock, sleep=clock.sleep)
    poller.poll()

    def call() -> None:
        clock.sleep(0.05)
        if poller.failure is None:
            try:
                poller.poll()
            except MeterError:
                return

    found = repeat(poller, call, seconds=1.0)
    assert found.energy_j is None and found.call_j is None and found.power_w is None
    assert "the driver is gone" in (found.problem or "")
