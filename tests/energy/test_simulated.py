"""The simulated device against brute force: its truth, its sensor, and what must hold of any counter."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.meter import PhaseListener
from engine.energy.simulated import SimulatedMeter, SimulatedProfile, VirtualClock, load_profile
from engine.errors import UsageError

KINDS = ("idle", "prefill", "decode")
STEPS = [("decode", 0.0053), ("idle", 0.0009), ("decode", 0.0049)]
WORK = [("prefill", 0.0617), *STEPS, ("idle", 0.2), ("prefill", 0.003)]

profiles = st.builds(
    SimulatedProfile,
    idle_w=st.floats(0, 100),
    prefill_w=st.floats(100, 700),
    decode_w=st.floats(100, 700),
    period_s=st.floats(0.001, 0.5),
    phase_s=st.floats(0, 0.5),
    window_s=st.just(0.0) | st.floats(0.001, 1.0),
    lag_s=st.floats(0, 0.2),
    resolution_uj=st.sampled_from([1, 61, 1000, 10**6]),
    gain=st.floats(0.8, 1.2),
    offset_w=st.floats(0, 20),
)
work = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 0.3)), max_size=20)


def brute_force_uj(meter, tick_s, step_s=1e-5):
    """The counter's exact value at a tick, by numeric integration of the power over a fine grid."""
    profile, segments = meter.profile, meter.segments
    starts = np.array([start_s for start_s, _ in segments])
    powers = np.array([power_w for _, power_w in segments])
    end_s = tick_s - profile.lag_s
    from_s = end_s - profile.window_s
    # Before the window: whole pieces. Inside it: midpoints, each with the share of the window it fills.
    ends = np.append(starts[1:], np.inf)
    before_j = float(np.sum(powers * np.clip(np.minimum(ends, from_s) - starts, 0, None)))
    count = max(round(profile.window_s / step_s), 1)
    times = from_s + (np.arange(count) + 0.5) * profile.window_s / count
    power_at = powers[np.searchsorted(starts, times, side="right") - 1]
    inside_j = float(np.mean(np.cumsum(power_at) - power_at / 2)) * profile.window_s / count
    offset_j = profile.offset_w * (tick_s - starts[0])
    return (profile.gain * (before_j + inside_j) + offset_j) * 1e6


def run(meter, clock, schedule):
    for kind, seconds in schedule:
        meter.enter(kind)
        clock.sleep(seconds)


@pytest.mark.parametrize("window_s", [0.0, 0.025, 0.1, 1.0])
@pytest.mark.parametrize("lag_s", [0.0, 0.02])
def test_counter_matches_numeric_integration(window_s, lag_s):
    clock = VirtualClock(1000.0)
    sensor = SimulatedProfile(period_s=0.013, phase_s=0.004, gain=0.95, offset_w=-21.7, resolution_uj=1)
    profile = replace(sensor, window_s=window_s, lag_s=lag_s)
    meter = SimulatedMeter(profile, clock=clock)
    wrong = SimulatedMeter(replace(profile, window_s=window_s + 0.01), clock=clock)
    worst_uj = worst_planted_uj = 0.0
    for kind, seconds in WORK * 3:
        meter.enter(kind)
        wrong.enter(kind)
        until_s = clock() + seconds
        while (tick_s := meter.next_tick_s(clock())) <= until_s:
            clock.jump(tick_s)
            expected_uj = brute_force_uj(meter, tick_s)
            worst_uj = max(worst_uj, abs(meter.read().energy_uj - expected_uj))
            worst_planted_uj = max(worst_planted_uj, abs(wrong.read().energy_uj - expected_uj))
        clock.jump(until_s)
    # 10 µs grid: an edge inside a cell is misplaced by 5 µs at most, 510 W x 5 µs = 2.6 mJ an edge.
    assert worst_uj < 10_000
    assert worst_planted_uj > 300_000, "a window that is 10 ms too wide must stand out"


def test_counter_changes_at_ticks_only():
    clock = VirtualClock(50.0)
    meter = SimulatedMeter(SimulatedProfile(phase_s=0.03), clock=clock)
    meter.enter("decode")
    tick_s = meter.next_tick_s(50.0)
    assert tick_s == pytest.approx(50.03)
    before_uj = meter.read().energy_uj
    clock.jump(np.nextafter(tick_s, 0))
    assert meter.read().energy_uj == before_uj
    clock.jump(tick_s)
    at_tick_uj = meter.read().energy_uj
    assert at_tick_uj > before_uj
    clock.sleep(0.0999)
    assert meter.read().energy_uj == at_tick_uj


@given(st.floats(0, 1e7), st.floats(1e-4, 1.0), st.floats(0, 1.0), st.floats(0, 1e4))
def test_a_read_at_the_next_tick_sees_that_tick(opened_s, period_s, phase_s, later_s):
    clock = VirtualClock(opened_s)
    profile = SimulatedProfile(period_s=period_s, phase_s=phase_s, lag_s=0.0, window_s=0.0, resolution_uj=1)
    meter = SimulatedMeter(profile, clock=clock)
    clock.sleep(later_s)
    before_uj = meter.read().energy_uj
    tick_s = meter.next_tick_s(clock())
    assert tick_s > clock()
    clock.jump(tick_s)
    assert meter.read().energy_uj > before_uj
    assert meter.next_tick_s(tick_s) > tick_s


@settings(max_examples=100, deadline=None)
@given(profiles, work, st.floats(0, 1e6))
def test_monotone_and_never_ahead_of_the_truth(profile, schedule, opened_s):
    clock = VirtualClock(opened_s)
    meter = SimulatedMeter(profile, clock=clock)
    last_uj = 0
    for kind, seconds in schedule:
        meter.enter(kind)
        clock.sleep(seconds)
        energy_uj = meter.read().energy_uj
        assert energy_uj >= last_uj
        assert energy_uj % profile.resolution_uj == 0
        last_uj = energy_uj
        offset_uj = profile.offset_w * (clock() - meter.segments[0][0]) * 1e6
        ceiling_uj = profile.gain * meter.true_energy_uj(clock() - profile.lag_s) + offset_uj
        assert energy_uj <= ceiling_uj + 1


@settings(max_examples=100, deadline=None)
@given(profiles, work)
def test_conservation(profile, schedule):
    """From one settled tick to another the counter rises by gain x true energy + offset x time."""
    clock = VirtualClock(10.0)
    meter = SimulatedMeter(profile, clock=clock)

    def settled():
        meter.enter("idle")
        clock.sleep(profile.lag_s + profile.window_s)
        clock.jump(meter.next_tick_s(clock()))
        return clock(), meter.read().energy_uj

    start_s, start_uj = settled()
    run(meter, clock, schedule)
    end_s, end_uj = settled()
    true_uj = meter.true_energy_uj(end_s) - meter.true_energy_uj(start_s)
    expected_uj = profile.gain * true_uj + profile.offset_w * (end_s - start_s) * 1e6
    assert end_uj - start_uj == pytest.approx(expected_uj, abs=profile.resolution_uj + 1)


@given(profiles, work)
def test_converges_once_the_power_is_off(profile, schedule):
    clock = VirtualClock()
    meter = SimulatedMeter(replace(profile, offset_w=0.0), clock=clock)
    run(meter, clock, schedule)
    meter.set_power(0.0)
    # Multiplying ticks out costs a few ulps of time, hence the nanosecond.
    clock.sleep(profile.lag_s + profile.window_s + profile.period_s + 1e-9)
    expected_uj = profile.gain * meter.true_energy_uj(clock())
    assert expected_uj - profile.resolution_uj - 1 <= meter.read().energy_uj <= expected_uj + 1


def test_truth_is_the_sum_of_the_pieces():
    clock = VirtualClock(5.0)
    meter = SimulatedMeter(clock=clock)
    run(meter, clock, [("prefill", 0.1), ("decode", 0.2), ("probe", 0.1), ("idle", 0.5)])
    meter.set_power(123.0)
    clock.sleep(1.0)
    expected_j = 600 * 0.1 + 350 * 0.3 + 90 * 0.5 + 123 * 1.0
    assert meter.true_energy_uj(clock()) - meter.true_energy_uj(5.0) == pytest.approx(expected_j * 1e6)
    # A kind it does not know is decode, and a power that stays is no new piece.
    assert [power_w for _, power_w in meter.segments] == [90.0, 600.0, 350.0, 90.0, 123.0]


def test_entering_twice_at_once_keeps_the_last():
    clock = VirtualClock()
    meter = SimulatedMeter(clock=clock)
    clock.sleep(1.0)
    meter.enter("prefill")
    meter.enter("decode")
    clock.sleep(1.0)
    assert meter.true_energy_uj(2.0) - meter.true_energy_uj(1.0) == pytest.approx(350e6)


def test_starts_idle_without_a_transient_and_not_at_zero():
    clock = VirtualClock()
    meter = SimulatedMeter(clock=clock)
    first_uj = meter.read().energy_uj
    assert first_uj > 0
    clock.jump(meter.next_tick_s(0.0))
    assert meter.read().energy_uj - first_uj == pytest.approx(9e6, abs=1000)  # 90 W x 0.1 s


def test_period_zero_is_fresh():
    clock = VirtualClock()
    profile = SimulatedProfile(period_s=0.0, window_s=0.0, lag_s=0.0, resolution_uj=1)
    meter = SimulatedMeter(profile, clock=clock)
    meter.enter("decode")
    start_uj = meter.read().energy_uj
    clock.sleep(0.0001)
    assert meter.read().energy_uj - start_uj == 35_000
    with pytest.raises(ValueError, match="no next tick"):
        meter.next_tick_s(0.0)


def test_describes_its_sensor():
    profile = SimulatedProfile(gain=0.9, offset_w=10.0, gain_error=None)
    meter = SimulatedMeter(profile)
    sensor = meter.sensor
    assert isinstance(meter, PhaseListener)
    assert (meter.name, meter.measured) == ("simulated", False)
    assert (sensor.period_s, sensor.lag_s, sensor.window_s, sensor.resolution_uj) == (0.1, 0.02, 0.025, 1000)
    assert (sensor.idle_w, sensor.peak_w, sensor.gain_error) == (91.0, 550.0, None)


def test_powers_that_run_the_counter_backwards_are_refused():
    meter = SimulatedMeter(SimulatedProfile(offset_w=-50.0))
    for watts in (-1.0, 40.0, float("nan")):
        with pytest.raises(ValueError, match="power must not be negative"):
            meter.set_power(watts)


def test_clocks_that_go_back_are_refused():
    now = [10.0]
    meter = SimulatedMeter(clock=lambda: now[0])
    meter.enter("decode")
    now[0] = 9.0
    with pytest.raises(ValueError, match="went back"):
        meter.enter("idle")
    with pytest.raises(ValueError, match="monotonic"):
        VirtualClock(5.0).jump(4.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"idle_w": -1}, "idle_w must not be negative, got -1"),
        ({"period_s": float("nan")}, "period_s must be a finite number"),
        ({"lag_s": "soon"}, "lag_s must be a finite number"),
        ({"window_s": True}, "window_s must be a finite number"),
        ({"window_s": 61.0}, "window_s must be at most 60 s"),
        ({"resolution_uj": 0}, "resolution_uj must be a whole number"),
        ({"resolution_uj": 1.5}, "resolution_uj must be a whole number"),
        ({"gain": 0}, "gain must be positive"),
        ({"gain_error": -0.1}, "gain_error must not be negative"),
        ({"offset_w": -91.0}, "backwards at 90 W"),
    ],
)
def test_bad_profiles(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        SimulatedProfile(**change)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(change))
    with pytest.raises(UsageError, match=words):
        load_profile(str(path))


def test_profiles_from_files(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text('{"idle_w": 50, "gain_error": null}')
    assert load_profile(str(path)) == SimulatedProfile(idle_w=50, gain_error=None)
    assert load_profile("default") == SimulatedProfile()
    path.write_text('{"idle_watts": 50}')
    with pytest.raises(UsageError, match=r"profile\.json: unknown key 'idle_watts'"):
        load_profile(str(path))
    path.write_text("[]")
    with pytest.raises(UsageError, match="one JSON object"):
        load_profile(str(path))
    path.write_bytes(b"\xff{")
    with pytest.raises(UsageError, match="not JSON"):
        load_profile(str(path))
    with pytest.raises(UsageError, match="neither built in"):
        load_profile("no-such-profile")


def test_thousands_of_pieces_are_cheap():
    """A thousand runs of thousands of steps must be affordable: here 20,000 steps, read after each."""
    clock = VirtualClock()
    meter = SimulatedMeter(SimulatedProfile(window_s=1.0), clock=clock)
    started_s = time.process_time()
    for _ in range(20_000):
        meter.enter("decode")
        clock.sleep(0.0045)
        meter.enter("idle")
        clock.sleep(0.0005)
        meter.read()
    assert len(meter.segments) == 40_001
    assert time.process_time() - started_s < 3.0  # 0.2 s where written; a quadratic sum takes minutes


def test_the_note_tells_profiles_apart() -> None:
    """Records are resumed by what the note says: other joules must have another note."""
    profiles = (SimulatedProfile(), SimulatedProfile(decode_w=300.0), SimulatedProfile(gain_error=None))
    notes = [SimulatedMeter(profile).note for profile in profiles]
    assert len(set(notes)) == 3
    assert all(note.endswith("the joules are invented, no device was measured") for note in notes)
