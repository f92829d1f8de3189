"""The poller: which readings it keeps, how it waits, how it fails, and that it lets go."""

import math
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.meter import Reading, Sensor
from engine.energy.poller import Poller
from engine.energy.simulated import SimulatedMeter, SimulatedProfile, VirtualClock
from engine.errors import MeterError

TICKING = Sensor(period_s=0.1)
FRESH = Sensor(period_s=0.0)


class ScriptedMeter:
    """Gives the scripted values one read after another, then the last one for ever; errors are raised."""

    name = "scripted"
    measured = False
    device = "script"
    note = ""

    def __init__(self, values, *, clock=time.monotonic, sensor=TICKING) -> None:
        self.values = list(values)
        self.clock = clock
        self.sensor = sensor

    def read(self) -> Reading:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if isinstance(value, Exception):
            raise value
        now_s = self.clock()
        return Reading(now_s, now_s, value)

    def close(self) -> None:
        pass


def by_hand(values, **options):
    clock = VirtualClock()
    meter = ScriptedMeter(values, clock=clock, sensor=options.pop("sensor", TICKING))
    return Poller(meter, clock=clock, sleep=clock.sleep, **options), clock


def poll_all(poller, clock, times, every_s=0.01):
    for _ in range(times):
        poller.poll()
        clock.sleep(every_s)


def until(condition, timeout_s=5.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    assert condition()


def test_keeps_the_first_reading_and_changes_only():
    poller, clock = by_hand([7, 7, 9, 9, 9, 12])
    assert poller.latest is None
    assert poller.readings == ()
    poll_all(poller, clock, 7)
    assert [(round(r.time_s, 9), r.energy_uj) for r in poller.readings] == [(0.0, 7), (0.02, 9), (0.05, 12)]
    assert poller.latest is poller.readings[-1]
    assert poller.reads == 7
    assert poller.tick_s() == pytest.approx(0.03)  # the time before the first change is no whole tick


def test_log_tells_how_late_a_change_was_seen():
    poller, clock = by_hand([1, 1, 2, 2, 2])
    for gap_s in (0.01, 0.5, 0.01, 0.01, 0.01):
        poller.poll()
        clock.sleep(gap_s)
    log = poller.log()
    assert log.slack_s[0] == math.inf
    assert log.slack_s[1] == pytest.approx(0.5), "the change fell anywhere in the half second without a read"
    assert log.confirmation is not None
    assert log.confirmation.time_s == pytest.approx(0.53)
    assert log.confirmation.energy_uj == 2


def test_log_since():
    poller, clock = by_hand(range(10))
    poll_all(poller, clock, 10, every_s=1.0)
    assert [r.energy_uj for r in poller.log(since_s=6.5).readings] == [6, 7, 8, 9]
    assert [r.energy_uj for r in poller.log(since_s=7.0).readings] == [7, 8, 9]
    assert len(poller.log(since_s=-5.0).readings) == 10
    assert [r.energy_uj for r in poller.log(since_s=99.0).readings] == [9]
    assert poller.log().confirmation is None


def test_fresh_meters_run_no_thread_and_keep_every_read():
    poller, clock = by_hand([0, 0, 4_000_000], sensor=FRESH)
    threads = threading.active_count()
    poller.start()
    assert threading.active_count() == threads
    clock.jump(10.0)
    poller.poll()
    clock.jump(11.0)
    poller.poll()
    poller.stop()
    # Without the unchanged read at 10 s the last second's 4 J would seem spread over eleven.
    assert [(r.time_s, r.energy_uj) for r in poller.readings] == [(0.0, 0), (10.0, 0), (11.0, 4_000_000)]
    assert poller.fresh
    assert poller.tick_s() == 0.0


def test_a_counter_that_runs_backwards_is_a_failure():
    poller, clock = by_hand([5, 8, 6, 9])
    poll_all(poller, clock, 2)
    with pytest.raises(MeterError, match="'scripted' ran backwards, from 8 to 6"):
        poller.poll()
    assert "backwards" in str(poller.failure)
    with pytest.raises(MeterError, match="backwards"):
        poller.poll()
    assert [r.energy_uj for r in poller.readings] == [5, 8]


@pytest.mark.parametrize("error", [MeterError("gone"), OSError("gone")])
def test_failure_in_the_thread_is_kept_and_ends_it(error):
    poller = Poller(ScriptedMeter([1, 2, error, MeterError("second")]))
    poller.start()
    until(lambda: poller.failure is not None)
    until(lambda: not any(thread.name == "energy-poller" for thread in threading.enumerate()))
    assert isinstance(poller.failure, MeterError)
    assert "gone" in str(poller.failure)
    assert [r.energy_uj for r in poller.readings] == [1, 2]
    poller.stop()
    assert "gone" in str(poller.failure), "the first failure stays"


def test_a_meter_dead_from_the_start_raises():
    poller = Poller(ScriptedMeter([MeterError("dead")]))
    with pytest.raises(MeterError, match="dead"):
        poller.start()
    with pytest.raises(MeterError, match="dead"), poller:
        pass


def test_the_thread_follows_a_live_counter():
    meter = SimulatedMeter(SimulatedProfile(period_s=0.02, window_s=0.0, lag_s=0.0))
    meter.enter("decode")
    with Poller(meter) as poller:
        opened_s = time.monotonic()
        until(lambda: len(poller.readings) >= 10)
        elapsed_s = time.monotonic() - opened_s
    readings = poller.readings
    assert all(b.energy_uj > a.energy_uj for a, b in pairwise(readings))
    assert poller.tick_s() == pytest.approx(0.02, abs=0.01)
    assert poller.reads > len(readings), "unchanged reads are not recorded"
    assert poller.reads <= elapsed_s / poller.interval_s + 3
    stopped_at = poller.reads
    time.sleep(0.02)
    assert poller.reads == stopped_at
    poller.stop()
    with poller:  # and it can go on
        until(lambda: poller.reads > stopped_at + 2)
        with pytest.raises(RuntimeError, match="running already"):
            poller.start()


def test_wait_for_change_with_a_thread():
    meter = SimulatedMeter(SimulatedProfile(period_s=0.03, window_s=0.0, lag_s=0.0))
    with Poller(meter) as poller:
        asked_s = time.monotonic()
        assert poller.wait_for_change(asked_s, timeout_s=5.0)
        assert poller.readings[-1].before_s >= asked_s
        assert not poller.wait_for_change(time.monotonic() + 60.0, timeout_s=0.05)


def test_wait_ends_at_once_when_the_meter_fails():
    with Poller(ScriptedMeter([1, 1, 1, MeterError("gone")])) as poller:
        asked_s = time.monotonic()
        assert not poller.wait_for_change(asked_s, timeout_s=30.0)
        assert time.monotonic() - asked_s < 10.0
        assert poller.failure is not None


def test_wait_without_a_thread_uses_the_injected_clock():
    clock = VirtualClock(100.0)
    meter = SimulatedMeter(SimulatedProfile(phase_s=0.05), clock=clock)
    poller = Poller(meter, clock=clock, sleep=clock.sleep)
    started_s = time.monotonic()
    assert poller.wait_for_change(103.0, timeout_s=10.0)
    assert clock() == pytest.approx(103.05, abs=0.002)
    assert not poller.wait_for_change(1000.0, timeout_s=1.0)
    assert clock() == pytest.approx(104.05, abs=0.004)
    assert time.monotonic() - started_s < 5.0


def test_a_change_seen_late_does_not_count_as_after():
    """The poller stalls, a tick falls into the gap before the request ends: it does not cover the end."""
    clock = VirtualClock()
    meter = SimulatedMeter(SimulatedProfile(window_s=0.0, lag_s=0.0), clock=clock)
    poller = Poller(meter, clock=clock, sleep=clock.sleep)
    clock.jump(0.099)
    poller.poll()
    clock.jump(0.15)  # the tick at 0.1 s goes unseen; the request ends here
    assert not poller.wait_for_change(0.15, timeout_s=0.0)
    assert len(poller.readings) == 2, "it was recorded all the same"
    clock.jump(meter.next_tick_s(clock()))
    poller.poll()
    assert poller.wait_for_change(0.15, timeout_s=0.0)


def test_a_fresh_meter_needs_one_read_only():
    poller, clock = by_hand([3], sensor=FRESH)
    clock.jump(5.0)
    assert poller.wait_for_change(5.0, timeout_s=0.0)
    assert poller.reads == 1


def test_thinning_bounds_the_log_and_loses_no_energy():
    poller, clock = by_hand(range(0, 30_000, 3), capacity=100)
    poll_all(poller, clock, 10_000)
    log = poller.log()
    energies = [r.energy_uj for r in log.readings]
    assert len(energies) == len(log.slack_s) <= 100
    assert poller.thinned + len(energies) == 10_000
    assert (energies[0], energies[-1]) == (0, 29_997)
    assert energies == sorted(set(energies))
    assert energies[-40:] == list(range(29_997 - 39 * 3, 29_998, 3)), "the recent ones are all there"
    assert poller.tick_s() == pytest.approx(0.01), "and thinning does not stretch the ticks"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(4, 20))
def test_whatever_comes_the_ends_and_the_order_stay(steps, capacity):
    energies, total = [], 1000
    for step in steps:
        total += step
        energies.append(total)
    poller, clock = by_hand(energies, capacity=capacity)
    poll_all(poller, clock, len(energies))
    kept = [r.energy_uj for r in poller.readings]
    assert kept[0] == energies[0]
    assert kept[-1] == energies[-1]
    assert kept == sorted(set(kept))
    assert len(kept) <= capacity
    if len(set(energies)) <= capacity:
        assert kept == sorted(set(energies))


@pytest.mark.parametrize("options", [{"interval_s": 0.0}, {"interval_s": math.nan}, {"capacity": 3}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Poller(ScriptedMeter([1]), **options)


def test_readers_see_a_consistent_log_while_it_polls():
    meter = SimulatedMeter(SimulatedProfile(period_s=0.0005, window_s=0.0, lag_s=0.0, resolution_uj=1))
    with Poller(meter, interval_s=0.0001, capacity=50) as poller:
        until_s = time.monotonic() + 0.3
        while time.monotonic() < until_s:
            poller.poll()  # by hand, beside the thread
            log = poller.log()
            times = [r.before_s for r in log.readings]
            assert times == sorted(times)
            assert len(log.slack_s) == len(log.readings) <= 50
    assert poller.failure is None


def test_does_not_keep_the_interpreter_alive():
    code = (
        "from engine.energy.estimate import CpuEstimateMeter as Meter\n"
        "from engine.energy.meter import Sensor\n"
        "from engine.energy.poller import Poller\n"
        "meter = Meter()\n"
        "meter.sensor = Sensor(period_s=None)\n"
        "Poller(meter).start()\n"
        "print('done')\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout == "done\n"
    assert answer.stderr == ""
