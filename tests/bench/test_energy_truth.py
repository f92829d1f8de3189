"""Single-shot joules against repetition, on a device of known powers; errors that are planted are found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.energy_truth import main
from bench.record import Arm, Case, append, read
from bench.report import everything
from bench.truth.findings import Comparison, Figure, Shuffle, Study
from bench.truth.plan import Plan, fitted_to
from bench.truth.records import Recorder, allowed, problems, table
from bench.truth.repeats import GAP, Power, Stretch, gap_power
from bench.truth.study import Runner
from engine.energy.attribution import StepMark
from engine.energy.meter import Reading, Sensor
from engine.energy.power_model import PowerModel
from engine.errors import MeterError, UsageError
from tests.bench.records import STAMP
from tests.curves import DECODE_W, IDLE_W, PREFILL_W, PricedModel, preparing, simulated_device

# Seconds of 20 ms ticks instead of 100 ms ones: a fifth of the steps to compute.
PLAN = Plan((64, 181, 512, 1024, 1600), (4, 8, 16, 32), truth_s=0.6, truth_ticks=30, pool=16, idle_s=0.3)
PLAN = replace(PLAN, total_s=10_000.0)
SMALL = replace(PLAN, prompts=(64, 512), new_tokens=(4, 8), shams=2)


def runner(plan: Plan, *, seed: int = 0, lag_off_s: float = 0.0) -> Runner:
    """Of a device whose meter believes its sensor to lag by `lag_off_s` more than it does."""
    device, rng = simulated_device(period_s=0.02), np.random.default_rng(seed)
    sensor = device.meter.sensor
    device.meter.sensor = replace(sensor, lag_s=(sensor.lag_s or 0.0) + lag_off_s)
    model = PricedModel(device, rng, noise=0.003)
    said: list[str] = []
    return Runner(device.poller, preparing(device, model), plan, rng, said.append, device.sleep, said.append)


@pytest.fixture(scope="module")
def study() -> Study:
    return runner(PLAN).run(None)


@pytest.fixture(scope="module")
def power() -> PowerModel:
    """Fitted to other requests than any that is judged here."""
    return runner(PLAN, seed=7).fit()


def outside(study: Study, check: str = "comparison") -> tuple[int, int]:
    told = study.of(check)
    return sum(bool(c.outside) for c in told), len(told)


def test_forty_single_figures_hold_what_repetition_tells(study: Study) -> None:
    assert problems(study) == []
    count, figures = outside(study)
    assert figures == 40 and count <= 4
    assert [outside(study, check)[1] for check in ("additivity", "differencing", "sham")] == [5, 15, 5]
    for c in study.of("comparison"):  # intervals that hold everything would say nothing
        assert c.half_j < 0.05 * c.truth.energy_j, c
    assert study.shuffle is not None and study.shuffle.right < 0.01 < study.shuffle.shuffled  # type: ignore


def test_repetition_tells_the_powers_that_were_planted(study: Study) -> None:
    """The truth is judged by itself: powers of the device, which it is never told."""
    assert study.idle is not None and study.idle.watts == pytest.approx(IDLE_W, rel=1e-3)
    assert study.gaps is not None and abs(study.gaps.watts - IDLE_W) < study.gaps.half_w < 0.5 * IDLE_W
    planted = {"prefill": PREFILL_W, "decode": DECODE_W}
    off = [c.truth.power.watts / planted[c.what] - 1 for c in study.of("comparison")]
    assert max(abs(share) for share in off) < 0.02


@pytest.mark.parametrize("share", [1.1, 0.9])
def test_figures_that_are_a_tenth_off_are_found(power: PowerModel, share: float) -> None:
    wrong = replace(power, theta=tuple(share * watts for watts in power.theta))
    found = runner(SMALL).run(wrong)
    count, figures = outside(found)
    assert figures == 8 and count > allowed(8)
    assert any(line.startswith("comparison: ") and "at most 2" in line for line in problems(found, {}))
    right = runner(SMALL).run(power)
    assert outside(right)[0] <= allowed(8)


def test_a_lag_that_is_30_ms_off_is_found() -> None:
    """It moves prefills into the ticks before or behind them."""
    found = runner(replace(SMALL, pool=12), lag_off_s=0.03).run(None)
    count, figures = outside(found)
    assert figures == 8 and count > allowed(8)


def test_time_that_runs_out_is_said_and_what_was_found_stays(power: PowerModel) -> None:
    found = runner(replace(PLAN, total_s=12.0)).run(power)
    assert 0 < len(found.of("comparison")) < 40
    against = problems(found)
    assert any("40 are needed" in line for line in against)
    assert any(line.startswith("the time was too short for") and "of 20 sizes" in line for line in against)


def test_four_of_forty_may_lie_outside_and_small_checks_have_their_own_limit() -> None:
    assert [allowed(count) for count in (0, 1, 5, 10, 40)] == [0, 1, 1, 2, 4]


def test_five_outside_a_missing_figure_and_labels_that_do_not_matter_are_against_it(study: Study) -> None:
    told = study.of("comparison")
    c = next(c for c in told if not c.outside)
    wrong = replace(c, single=replace(c.single, energy_j=2 * c.truth.energy_j))
    assert wrong.outside and wrong.power_outside
    seconds = 1.3 * c.single.seconds  # a request that took longer than the repeated ones, at the same power
    slow = replace(c, single=replace(c.single, energy_j=c.truth.power.watts * seconds, seconds=seconds))
    assert slow.outside and not slow.power_outside
    inside = [c] * 36
    assert problems(replace(study, comparisons=[*inside, *[wrong] * 4, *_others(study)])) == []
    five = replace(study, comparisons=[*inside[:-1], *[wrong] * 5, *_others(study)])
    assert problems(five) == ["comparison: 5 of 40 outside, at most 4 may be"]
    refused = replace(c, single=Figure(None, 0.0, 0.1, "no tick saw it"))
    fewer = replace(study, comparisons=[*inside, *[c] * 3, refused, *_others(study)])
    assert problems(fewer) == ["comparison: 39 figures, 40 are needed"]
    assert "no tick saw it" in table(fewer) and "1 refused by the model" in table(fewer)
    same = problems(replace(study, shuffle=Shuffle(0.02, 0.03)))
    assert len(same) == 1 and same[0].startswith("label shuffle")
    assert Shuffle(0.02, None, "refused").told_apart and Shuffle(0.02, 0.05).told_apart


def _others(study: Study) -> list[Comparison]:
    return [c for c in study.comparisons if c.check != "comparison"]


def test_records_tell_the_table_again(study: Study, tmp_path: Path) -> None:
    arm, case = Arm("torch none", "tokenjoule", "torch", "none", "float32"), Case("m", True, "request", 1, 1)
    recorder = Recorder(STAMP, arm, case, "simulated", False)
    path = tmp_path / "truth.jsonl"
    append(path, [*map(recorder.comparison, study.comparisons), *recorder.checks(study)])
    found = list(read([path]))
    assert len(found) == len(study.comparisons) + 5
    first, c = found[0], study.comparisons[0]
    assert first.derived["truth"].value == c.truth.energy_j and first.derived["single"].measured is False
    assert (first.case.context, first.case.new_tokens) == (c.size.prompt_tokens, c.size.new_tokens)
    text = everything(found)
    assert text.count("| inside |") + text.count("| OUTSIDE |") == len(study.comparisons)
    checks = {r.case.phase: r for r in found if "error" in r.metrics}
    assert checks["comparison"].derived["allowed"].value == 4


def steps(count: int, *, prefill_s: float, gap_s: float, pause_s: float = 0.0) -> list[list[StepMark]]:
    spans, now_s = [], 1.0
    for _ in range(count):
        spans.append([StepMark("prefill", now_s, now_s + prefill_s, ())])
        now_s += prefill_s + gap_s + pause_s
    return spans


def read_of(power_at: Callable[[float], float], seconds: float, period_s: float) -> list[Reading]:
    """A counter of the mean power at each millisecond's middle, in µJ."""
    raster_s = np.arange(0, seconds, 0.0005)
    used_uj = np.concatenate([[0], np.cumsum([power_at(t + 0.00025) * 0.0005 * 1e6 for t in raster_s])])
    at_s = np.arange(period_s, seconds, period_s)
    return [Reading(t, t, round(float(np.interp(t, [*raster_s, seconds], used_uj)))) for t in at_s]


def test_the_power_between_requests_is_not_that_of_rest() -> None:
    """300 W in prefills, 140 W between them, 70 W at rest: told by gaps of two lengths."""

    def stretch(pause_s: float) -> Stretch:
        requests = steps(200, prefill_s=0.012, gap_s=0.005, pause_s=pause_s)
        end_s = requests[-1][0].end_s
        starts = np.array([r[0].start_s for r in requests])

        def power_at(t: float) -> float:
            if not 1.0 <= t < end_s:
                return 70.0
            last = starts[np.searchsorted(starts, t, side="right") - 1]
            return 300.0 if t - last < 0.012 else 140.0

        sensor = Sensor(period_s=0.05, lag_s=0.0, window_s=0.0)
        return Stretch.of(read_of(power_at, end_s + 1, 0.05), requests, sensor, 1.0, end_s)

    short, long = stretch(0.0), stretch(0.02)
    gaps = gap_power(short, long, "prefill")
    assert gaps.watts == pytest.approx(140, rel=0.03)
    mine, whole = short.truth("prefill", gaps, {})
    assert mine.energy_j == pytest.approx(3.6, rel=0.01) and whole.energy_j == pytest.approx(3.6, rel=0.01)
    assert short.gap_share == pytest.approx(5 / 17, abs=0.01)
    rest, _ = short.truth("prefill", Power(70.0, 0.1), {})
    assert rest.energy_j > 1.05 * 3.6, "at the power of rest the gaps would be booked to the prefills"
    with pytest.raises(MeterError, match="tell nothing"):
        gap_power(short, short, "prefill")
    with pytest.raises(MeterError, match="no whole tick saw anything of decode"):
        short.truth("decode", gaps, {"prefill": mine.power})
    with pytest.raises(ValueError, match="power of prefill is not given"):
        short.truth("decode", gaps, {})


def test_a_counter_that_samples_shows_what_its_windows_saw() -> None:
    sensor = Sensor(period_s=0.1, lag_s=0.01, window_s=0.02, sampled=True)
    requests = [[StepMark("prefill", 0.0, 0.52, ())], [StepMark("decode", 0.52, 2.0, ())]]
    readings = [Reading(t, t, round(t * 1e8)) for t in np.arange(0.04, 2.0, 0.1)]
    found = Stretch.of(readings, requests, sensor, 0.0, 2.0)
    seen: Sequence[float] = found.seconds["prefill"].tolist()
    assert seen[:4] == pytest.approx([0.1] * 4) and seen[4] == pytest.approx(0.05), "window of 0.51 to 0.53"
    assert found.seconds[GAP] == pytest.approx(np.zeros(len(seen)), abs=1e-9)
    with pytest.raises(MeterError, match="too few"):
        Stretch.of(readings[:5], requests, sensor, 0.0, 2.0)


def test_prompts_keep_to_the_context_or_the_reason_is_said() -> None:
    assert fitted_to(PLAN, 8192) == PLAN
    small = fitted_to(PLAN, 256)
    assert max(small.prompts) == 224 and min(small.prompts) == 56 and len(set(small.prompts)) == 5
    half = fitted_to(replace(PLAN, new_tokens=(16, 64, 128, 256)), 256)
    assert half.new_tokens == (8, 32, 64, 128) and max(half.prompts) == 128
    with pytest.raises(UsageError, match="a context of 9 tokens has no room"):
        fitted_to(PLAN, 9)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (
            ["--energy-source", "estimate", "--backend", "torch"],
            1,
            "this source tells of every step by itself",
        ),
        (["--energy-source", "replay:a.jsonl"], 2, "a replayed recording"),
        (["--minutes", "0"], 2, "--minutes must be positive"),
        (["--seconds", "nan"], 2, "--seconds must be positive"),
        (["--out", "absent/truth.jsonl"], 2, "there is no folder absent"),
        (["--speed"], 2, "unrecognized arguments"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == status
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and said in error[0]


def test_without_a_profile_the_command_that_makes_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.energy.simulated import SimulatedMeter

    real = SimulatedMeter.__init__

    def unknown(self: SimulatedMeter, *given: object, **options: object) -> None:
        real(self, *given, **options)  # type: ignore[arg-type]
        self.sensor = replace(self.sensor, lag_s=None)

    monkeypatch.setattr(SimulatedMeter, "__init__", unknown)
    assert main(["--energy-source", "simulated", "--backend", "torch"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "python -m bench.sensor finds them" in error[0]
