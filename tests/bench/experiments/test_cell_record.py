"""What a measured cell says as a record, and which records belong together."""

import json

import pytest

from bench.experiments.cell_record import by_model, joules, joules_per_token, newest, record_key
from bench.record import parse
from tests.bench.experiments import sweeps


def test_a_cell_survives_its_way_through_a_file() -> None:
    record = sweeps.record("fig3", "preset:a", 64, 16, [10.0, 11.0, 12.0])
    assert parse(json.loads(json.dumps(record.to_json()))) == record


def test_joules_are_of_a_request_and_per_token_over_prompt_and_new_tokens() -> None:
    record = sweeps.record("fig3", "preset:a", 64, 16, [10.0, 11.0, 12.0])
    assert joules(record) == pytest.approx(11.0)
    assert joules_per_token(record) == pytest.approx(11.0 / 80)
    less = record.derived["energy_less_idle"]
    assert less.value == pytest.approx(11.0 - 100.0 * 0.5)
    energy = record.derived["energy"]
    assert (energy.source, energy.measured) == ("nvml", True)
    assert energy.high is not None and energy.high - 11.0 == pytest.approx(4.30265 / 3**0.5, rel=1e-4)
    idle = record.derived["idle_before"]
    assert (idle.value, idle.low, idle.high) == (100.0, 99.0, 101.0)
    assert record.derived["spread"].value == pytest.approx(1 / 11)
    assert record.derived["spread"].source.endswith("above the limit of 0.05")
    calm = sweeps.record("fig3", "preset:a", 64, 16, [10.0, 10.1, 10.2])
    assert calm.derived["spread"].source.endswith("within the limit of 0.05")
    others = record.derived["other_processes"]
    assert (others.value, others.source) == (1.0, "train (30% of a core)")


def test_a_window_without_joules_leaves_none_and_the_reason() -> None:
    record = sweeps.record("fig3", "preset:a", 64, 16, [10.0, None, 12.0])
    assert joules(record) is None and joules_per_token(record) is None
    assert record.metrics["energy"].reason == record.derived["energy"].reason == "the meter failed"
    assert record.derived["spread"].value is None
    assert len(record.metrics["request_s"].samples) == 3


def test_what_the_machine_does_not_tell_is_null_with_a_reason() -> None:
    record = sweeps.record("fig4", "preset:a", 64, 16, [1.0, 1.0], gpu_share=None, sm_clock_hz=None)
    assert record.metrics["gpu_share"].samples == ()
    assert "no GPU" in (record.metrics["sm_clock"].reason or "")


def test_of_a_cell_the_latest_counts_and_only_what_was_measured_alike() -> None:
    old = sweeps.record("fig3", "preset:a", 64, 16, [1.0, 1.0], utc="2026-01-01T00:00:00+00:00")
    new = sweeps.record("fig3", "preset:a", 64, 16, [2.0, 2.0], utc="2026-01-03T00:00:00+00:00")
    other = sweeps.record("fig3", "preset:b", 64, 16, [3.0, 3.0], utc="2026-01-02T00:00:00+00:00")
    longer = sweeps.record("fig3", "preset:c", 64, 16, [3.0], note="energy by nvml; windows of 9 s")
    assert record_key(old) == record_key(new) != record_key(other)
    kept, left = newest([longer, old, other, new])
    assert (set(map(joules, kept)), left) == ({2.0, 3.0}, 1)
    assert newest([]) == ([], 0)


def test_records_are_sorted_by_model_prompt_and_new_tokens() -> None:
    records = [
        sweeps.record("fig3", m, n, k, [1.0])
        for m, n, k in [("b", 64, 4), ("a", 8, 2), ("b", 8, 9), ("b", 64, 1)]
    ]
    cells = {
        name: [(r.case.context, r.case.new_tokens) for r in rs] for name, rs in by_model(records).items()
    }
    assert cells == {"b": [(8, 9), (64, 1), (64, 4)], "a": [(8, 2)]}
