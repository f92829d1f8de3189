"""The example that puts our ledger around transformers."""

import json

import pytest

from bench.measure_transformers import main
from engine.engine import Engine


def test_transformers_gets_the_same_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["47+35-18+6=", "--energy-source", "estimate"]) == 0
    found = json.loads(capsys.readouterr().out)
    with Engine.load(energy_source="estimate") as engine:
        ours = engine.generate("47+35-18+6=", max_new_tokens=64)
    assert found["text"] == ours.text, "same checkpoint, same greedy text"
    energy = found["energy"]
    assert set(energy["phases"]) == {"prefill", "decode"}
    assert energy["phases"]["prefill"]["tokens"] == ours.prompt_tokens
    assert energy["phases"]["decode"]["tokens"] == len(ours.token_ids) - 1 == len(found["decode_step_j"])
    total = sum(phase["energy_j"] for phase in energy["phases"].values()) + energy["unattributed_j"]
    assert total == pytest.approx(energy["total_j"], abs=1e-6)


def test_a_wrong_source_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1+1=", "--energy-source", "wind"]) == 1
    assert "unknown energy source 'wind'" in capsys.readouterr().err
