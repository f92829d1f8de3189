"""The attribution study: a few scenarios meet the bounds, and what is planted wrong is caught by them."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from bench import attribution_study as study
from bench.attribution.corners import CORNERS
from bench.attribution.record import BENCHMARK, WELL, records
from bench.attribution.scenarios import CELLS, draw_device, well_specified
from bench.attribution.score import ALONE, ARMS, CONSERVED, INTERPOLATED, MODEL, WINDOWS, score
from bench.attribution.table import attribution_tables, bounds
from bench.attribution_study import Task, tasks
from bench.record import parse
from bench.report import everything
from tests.bench.records import STAMP

CHEAP = (10, 11, 22, 23)  # slow tokens, few ticks, both duties
DEVICE = draw_device(np.random.default_rng(0), (0.005, 0.01))


@pytest.fixture(scope="module")
def well():
    return [study.run(Task(0, index)) for index in CHEAP]


@pytest.fixture(scope="module")
def corners():
    """Two scenarios of each corner that a test needs, by the first words of its name."""
    found = {}
    for place, corner in enumerate(CORNERS):
        for words in ("filter of 40", "lag told", "prefill locked"):
            if corner.name.startswith(words):
                found[words] = [study.run(Task(0, index, place)) for index in (0, 1)]
    return found


def verdicts(outcomes):
    return {bound.name: bound.holds for bound in bounds(records(outcomes, STAMP))}


def test_well_specified_scenarios_meet_the_bounds(well):
    assert False not in verdicts(well).values()
    for _, outcome in well:
        assert outcome.refused.get("calibration") is None and outcome.flagged == ()
        assert all(single.token_error < 0.02 for single in outcome.single[MODEL])
        assert abs(outcome.pooled[MODEL].prefill_error) < 0.03
        assert np.mean([single.covered["prefill with gain"] for single in outcome.single[MODEL]]) > 0.7


def test_the_model_beats_interpolation_and_windows_where_it_is_hard(well):
    def worst(arm):
        return max(abs(s.prefill_error) for _, outcome in well for s in outcome.single.get(arm, ()))

    assert worst(MODEL) < 0.05 < worst(INTERPOLATED) < worst(WINDOWS)


@pytest.mark.parametrize("planted", ["filter of 40", "lag told"])
def test_a_planted_error_of_the_sensor_is_caught_by_the_bounds_and_flagged(corners, planted):
    """Booked as if they were well-specified, scenarios with a wrong sensor must break the study's bounds."""
    outcomes = [(None, outcome) for _, outcome in corners[planted]]
    missed = [name for name, holds in verdicts(outcomes).items() if holds is False]
    assert any("prefill" in name for name in missed)
    assert all(outcome.flagged for _, outcome in outcomes)


def test_a_prefill_that_no_window_sees_is_refused(corners):
    for _, outcome in corners["prefill locked"]:
        assert MODEL not in outcome.single and MODEL not in outcome.pooled
        assert len(outcome.refused["calibration"]) == len(outcome.refused["repeated"]) == 1
        assert "prefill" in outcome.refused["calibration"][0]
        assert INTERPOLATED in outcome.single, "the simple account remains"


def test_records_are_of_the_one_schema_and_the_tables_read_nothing_else(well, corners):
    made = records([*well, *corners["prefill locked"]], STAMP)
    again = [parse(json.loads(json.dumps(record.to_json()))) for record in made]
    assert again == made
    assert {record.benchmark for record in made} == {BENCHMARK}
    names = {record.case.model for record in made}
    assert len(made) == len(ARMS) * len(names)
    alone = next(r for r in made if r.arm.name == MODEL and r.case.model.startswith("prefill locked"))
    assert alone.derived["refused"].value == 1.0 and alone.derived["refused"].source
    assert alone.metrics["prefill_error"].reason
    text = attribution_tables(again)
    for words in ("Model, well-specified", "Model, misspecified", "Must hold", MODEL, ALONE, CONSERVED):
        assert words in text
    assert attribution_tables([]) == ""
    assert text in everything(again)


def test_the_picture_is_drawn(well, corners, tmp_path):
    pytest.importorskip("matplotlib")
    from bench.attribution.figure import draw_attribution

    draw_attribution(records([*well, *corners["lag told"]], STAMP), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_few_scenarios_do_not_condemn_what_chance_can_explain(well):
    half = [(None, outcome) for _, outcome in well[:2]]
    for bound in bounds(records(half, STAMP)):
        if bound.high == 0.98 and bound.found == 1.0:
            assert bound.holds is None, "24 hits of 24 are no proof of an interval that is too wide"


def test_scenarios_are_reproducible_and_every_cell_has_its_turn():
    once, twice = (well_specified(3, 22, singles=1) for _ in range(2))
    assert once.single[0].readings == twice.single[0].readings
    assert once.device != well_specified(3, 46, singles=1).device
    assert {CELLS[task.index % len(CELLS)] for task in tasks(24, 0) if task.corner is None} == set(CELLS)
    assert {task.corner for task in tasks(24, 0)} == {None, *range(len(CORNERS))}


def test_a_truth_that_is_off_is_seen_as_an_error_and_outside_of_every_interval():
    """The readings kept, the counter said to show 9 % less: errors grow by that, and no interval holds."""
    scenario = well_specified(0, 10, singles=2)
    louder = replace(scenario, counter=replace(scenario.counter, gain=scenario.counter.gain * 0.91))
    right, wrong = score(scenario).single[MODEL], score(louder).single[MODEL]
    assert np.mean([s.covered["decode"] for s in right]) == 1.0
    assert all(abs(s.prefill_error) > 0.08 for s in wrong), "a truth of 9 % less must show"
    assert all(s.covered["decode"] == 0.0 for s in wrong)


@pytest.mark.parametrize(
    "bad",
    [
        ["--quick", "--scenarios", "5"],
        ["--scenarios", "0"],
        ["--jobs", "0"],
        ["--seed", "-1"],
        ["--plot", "a.txt"],
    ],
)
def test_bad_usage_is_one_line_and_exit_status_2(bad, capsys):
    assert study.main(bad) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_interrupt_does_not_wait_for_the_queue(monkeypatch):
    """Every task sleeps; with the queue waited for, forty of them would take 10 s."""
    monkeypatch.setattr(study, "run", _sleep)
    found = study.outcomes([Task(0, index) for index in range(40)], jobs=1 + 1)
    next(found)
    begun_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt())
    assert time.monotonic() - begun_s < 5


def _sleep(task):
    time.sleep(0.5)


def test_the_command_prints_tables_and_writes_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "tasks", lambda *_: [Task(0, 10), Task(0, 0, 7)])
    out = tmp_path / "a.jsonl"
    assert study.main(["--jobs", "1", "--out", str(out)]) in (0, 1)
    shown = capsys.readouterr()
    assert "Must hold" in shown.out and "2 of 2 scenarios" in shown.err
    assert len(out.read_text().splitlines()) == 2 * len(ARMS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_scenarios_of_every_cell_meet_every_bound():
    """A thousand of them take twenty minutes of CPU time: that is the command's own default."""
    count = 10 * len(CELLS)
    outcomes = list(study.outcomes([Task(1, index) for index in range(count)], jobs=2))
    made = records(outcomes, STAMP)
    assert (
        sum(r.derived["scenarios"].value for r in made if r.arm.name == MODEL and r.case.phase == WELL)
        == count
    )
    missed = {bound.name: bound.found for bound in bounds(made) if not bound.holds}
    assert missed == {}
