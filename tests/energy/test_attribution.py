"""Conservation to the microjoule, and intervals that cover the truth of simulated devices."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy.attribution import Attribution, Cumulative, Share, StepMark, attribute, split
from engine.energy.meter import Reading, Sensor
from engine.energy.report import by_phase, by_row


@st.composite
def traces(draw: st.DrawFn) -> tuple[list[Reading], list[StepMark], Sensor, float, float]:
    """Readings with random gaps and rises, marks anywhere around them, some outside."""
    gaps = draw(st.lists(st.floats(1e-4, 0.2), min_size=1, max_size=12))
    rises = draw(st.lists(st.integers(0, 80_000_000), min_size=len(gaps), max_size=len(gaps)))
    time_s, energy_uj = draw(st.floats(0, 1e5)), draw(st.integers(0, 10**15))
    readings = [Reading(time_s, time_s, energy_uj)]
    for gap, rise in zip(gaps, rises, strict=True):
        time_s, energy_uj = time_s + gap, energy_uj + rise
        readings.append(Reading(time_s, time_s, energy_uj))
    sensor = Sensor(
        period_s=0.1,
        lag_s=draw(st.floats(0, 0.05)),
        window_s=draw(st.floats(0, 0.05)),
        resolution_uj=draw(st.sampled_from([1, 1000])),
        gain_error=0.05,
    )
    span = readings[-1].time_s - readings[0].time_s
    cuts = sorted(draw(st.lists(st.floats(-0.2, 1.2), min_size=2, max_size=24, unique=True)))
    times = [readings[0].time_s + cut * span for cut in cuts]
    marks = [
        StepMark("decode", start, stop, (Share(0, "think", tokens), Share(1, "answer", 2)))
        for start, stop, tokens in zip(times[::2], times[1::2], range(1, 20), strict=False)
        if stop > start
    ]
    return readings, marks, sensor, times[0], times[-1]


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_is_negative(count: int) -> None:
    settings(max_examples=count, deadline=None)(given(traces())(check_conservation))()


def check_conservation(trace: tuple[list[Reading], list[StepMark], Sensor, float, float]) -> None:
    """Steps, gaps and edges are the counter's own µJ, recounted."""
    readings, marks, sensor, start_s, end_s = trace
    found = attribute(readings, marks, sensor, start_s=start_s, end_s=end_s)
    assert found.total_uj == readings[-1].energy_uj - readings[0].energy_uj
    assert all(step >= 0 for step in found.steps_uj)
    # What is not attributed, counted on its own: the edges and every gap between two marks.
    rise = Cumulative(readings, sensor)
    edges = [(-math.inf, marks[0].start_s), (marks[-1].end_s, math.inf)] if marks else [(-math.inf, math.inf)]
    gaps = [(a.end_s, b.start_s) for a, b in pairwise(marks)]
    rest = [rise.at(stop) - rise.at(start) for start, stop in edges + gaps]
    assert all(part >= 0 for part in rest)
    assert sum(rest) == found.unattributed_uj
    assert sum(found.steps_uj) + sum(rest) == found.total_uj
    # And the report's joules, by phase and by row, are the same microjoules.
    phases = by_phase(marks, found, {}, None)
    rows = by_row(marks, found, with_sd=False)
    attributed = sum(found.steps_uj)
    assert sum(round((p.energy_j or 0.0) * 1e6) for p in phases.values()) == attributed
    assert sum(round(row.total_j * 1e6) for row in rows.values()) == attributed
    assert 0 <= found.window_uj <= found.total_uj
    assert all(math.isfinite(sd) and sd >= 0 for sd in found.step_sd_uj)


@given(st.integers(0, 10**15), st.lists(st.integers(1, 5000), min_size=1, max_size=16))
def test_a_step_is_split_without_remainder(energy_uj: int, tokens: list[int]) -> None:
    parts = split(energy_uj, [float(count) for count in tokens])
    assert sum(parts) == energy_uj
    for part, count in zip(parts, tokens, strict=True):
        assert abs(part - energy_uj * count / sum(tokens)) <= 1 + 1e-9 * energy_uj


def test_probes_of_one_row_in_one_step_are_all_on_its_bill() -> None:
    """Two policies that ask behind different texts ride together."""
    mark = StepMark("decode", 0.0, 1.0, (Share(0, "think", 1), Share(0, "probe", 2), Share(0, "probe", 3)))
    row = by_row([mark], Attribution((60,), (0.0,), 60, 0, 60, 1), with_sd=False)[0]
    assert row.probes[0] == pytest.approx(50e-6)
    assert row.total_j == pytest.approx(row.by_forward[0][0] + row.probes[0])


def test_a_falling_counter_is_refused() -> None:
    readings = [Reading(0, 0, 10), Reading(1, 1, 5)]
    with pytest.raises(ValueError, match="fell"):
        attribute(readings, [], Sensor(), start_s=0, end_s=1)


def test_a_single_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="two readings"):
        attribute([Reading(0, 0, 0)], [], Sensor(), start_s=0, end_s=1)


def test_lag_and_half_the_window_are_taken_off() -> None:
    """A reading taken at t tells of the energy used up to t - lag - window/2."""
    readings = [Reading(t / 10, t / 10, 1000 * t) for t in range(11)]
    sensor = Sensor(period_s=0.1, lag_s=0.2, window_s=0.2)
    assert Cumulative(readings, sensor).at(0.0) == 3000
    assert Cumulative(readings, sensor).at(0.35) == 6500


def test_steps_on_readings_have_no_uncertainty_and_steps_inside_a_tick_have() -> None:
    readings = [Reading(float(t), float(t), 12_000_000 * t) for t in range(4)]
    share = (Share(0, "answer", 1),)
    marks = [StepMark("decode", 0.0, 1.0, share), StepMark("decode", 1.0, 1.5, share)]
    found = attribute(readings, marks, Sensor(period_s=1.0, resolution_uj=1), start_s=0, end_s=3)
    assert found.step_sd_uj[0] < 1
    # Half a tick of 12 J holds anything from 0 to 12 J with equal chance: sd = 12/sqrt(12).
    assert found.step_sd_uj[1] == pytest.approx(12_000_000 / math.sqrt(12), rel=1e-9)


def test_intervals_cover_the_truth_of_random_loads() -> None:
    """95 % intervals of steps anywhere in their ticks hold the true energy in 95 % of cases or more."""
    rng = random.Random(0)
    covered = steps = 0
    for _ in range(300):
        edges = [0.0]
        while edges[-1] < 1.0:
            edges.append(edges[-1] + rng.uniform(0.002, 0.06))
        watts = [rng.uniform(50, 600) for _ in edges[1:]]

        def energy_at(time_s: float, edges: list[float] = edges, watts: list[float] = watts) -> float:
            return sum(
                w * max(0.0, min(time_s, b) - a) for a, b, w in zip(edges, edges[1:], watts, strict=False)
            )

        readings = [Reading(t / 10, t / 10, round(1e6 * energy_at(t / 10))) for t in range(11)]
        marks = [StepMark("decode", a, b, (Share(0, "answer", 1),)) for a, b in pairwise(edges) if b < 1.0]
        found = attribute(readings, marks, Sensor(period_s=0.1), start_s=0.0, end_s=1.0)
        for mark, step_uj, sd_uj in zip(marks, found.steps_uj, found.step_sd_uj, strict=True):
            true_uj = 1e6 * (energy_at(mark.end_s) - energy_at(mark.start_s))
            steps += 1
            covered += abs(true_uj - step_uj) <= 1.96 * sd_uj + 1
    assert covered / steps >= 0.95


def test_intervals_of_a_phase_cover_the_truth_where_the_device_idles_between_steps() -> None:
    """Gaps bias every tick the same way, so deviations of ticks must add up rather than cancel out."""
    rng = random.Random(1)
    watts, idle_w = 400.0, 90.0
    covered = 0
    runs = 300
    for _ in range(runs):
        gap_s, step_s = rng.uniform(0.0, 0.01), rng.uniform(0.005, 0.03)
        start_s = rng.uniform(0.2, 0.4)
        spans = [(start_s + i * (step_s + gap_s), start_s + i * (step_s + gap_s) + step_s) for i in range(60)]

        def energy_at(time_s: float, spans: list[tuple[float, float]] = spans) -> float:
            busy = sum(max(0.0, min(time_s, b) - a) for a, b in spans)
            return idle_w * time_s + (watts - idle_w) * busy

        end_s = spans[-1][1] + 0.3
        readings = [
            Reading(t / 10, t / 10, round(1e6 * energy_at(t / 10))) for t in range(int(end_s * 10) + 2)
        ]
        rise = Cumulative(readings, Sensor(period_s=0.1))
        phase_uj = sum(rise.at(b) - rise.at(a) for a, b in spans)
        covered += abs(phase_uj - 1e6 * watts * 60 * step_s) <= 1.96 * rise.deviation(spans)
    assert covered / runs >= 0.95
