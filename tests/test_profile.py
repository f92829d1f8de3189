"""Stage by stage: every call is counted and costed, tokens stay the same, the command line tells of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.engine import Engine
from engine.profile import ProfiledBackend, StageTime, shared_by_time
from kernels import cost
from kernels.api import load
from kernels.cost import Cost, RowWork
from tests.letters import CountedMeter

PROMPT = [5, 6, 7, 8]
STAGES = ["attention_input", "attention", "attention_output", "mlp", "head_logits"]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_every_stage_of_a_request_is_timed_and_costed(letters_directory: Path, backend: str) -> None:
    meter: Any = CountedMeter()
    with Engine.load(letters_directory, backend=backend, meter=meter) as engine:
        plain = engine.generate(PROMPT, max_new_tokens=6)
        dims = engine.origin.dims
    assert plain.profile is None
    with Engine.load(letters_directory, backend=backend, meter=meter, profile=True) as engine:
        engine.generate(PROMPT, max_new_tokens=3)
        result = engine.generate(PROMPT, max_new_tokens=6)
    assert result.token_ids == plain.token_ids
    assert result.backend == backend
    assert result.profile is not None
    assert [(s.kind, s.stage) for s in result.profile] == [
        (kind, stage) for kind in ("prefill", "decode") for stage in STAGES
    ]
    layers = dims.n_layers
    for stage in result.profile:
        forwards = 1 if stage.kind == "prefill" else 5
        assert stage.calls == forwards * (1 if stage.stage == "head_logits" else layers)
        assert stage.elapsed_s > 0
    work = [[RowWork(4, 4)], *([RowWork(1, 4 + n)] for n in range(1, 6))]
    total = sum(s.cost.bytes for s in result.profile)
    assert total == pytest.approx(sum(cost.forward(dims, rows).bytes for rows in work))


def test_time_is_that_of_the_clock_around_each_stage() -> None:
    ticks = iter(range(100))
    backend = ProfiledBackend(load("torch", torch.device("cpu")), clock=lambda: float(next(ticks)))
    assert backend.name == "torch" and not backend.captures
    with pytest.raises(AttributeError):
        backend.threads  # noqa: B018 - the inner backend has none either
    assert not hasattr(backend, "threads")


def test_joules_are_shared_by_time_and_what_lies_between_the_stages_keeps_its_own() -> None:
    stages = [
        StageTime("prefill", "mlp", 2, 1.0, Cost()),
        StageTime("decode", "attention", 10, 3.0, Cost()),
        StageTime("decode", "mlp", 10, 5.0, Cost()),
    ]
    found = shared_by_time(stages, {"decode": (40.0, 10.0)})
    assert [stage.energy_j for stage in found] == [None, pytest.approx(12.0), pytest.approx(20.0)]
    short = shared_by_time(
        stages, {"decode": (40.0, 2.0)}
    )  # stages of a prefill of one token count as decode
    assert sum(stage.energy_j or 0.0 for stage in short) == pytest.approx(40.0)


def test_a_requests_stages_share_the_joules_of_its_forwards(letters_directory: Path) -> None:
    meter: Any = CountedMeter(watts=50.0)
    with Engine.load(letters_directory, backend="torch", meter=meter, profile=True) as engine:
        result = engine.generate(PROMPT, max_new_tokens=6)
    assert result.profile is not None
    for kind, phases in (("prefill", {"prefill"}), ("decode", {"think", "answer"})):
        own = [s for s in result.profile if s.kind == kind]
        of = [phase for name, phase in result.energy.phases.items() if name in phases]
        assert sum(s.energy_j or 0.0 for s in own) <= sum(phase.energy_j or 0.0 for phase in of)
        for stage in own:
            assert (stage.energy_j or 0.0) == pytest.approx(50.0 * stage.elapsed_s, rel=0.05, abs=2e-4)
        assert all(s.to_json()["energy_by_time_share_j"] == s.energy_j for s in own)


def test_the_command_line_prints_the_stages(
    letters_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.generate import main

    arguments = ["ab", "--model", str(letters_directory), "--max-new-tokens", "4", "--profile"]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    for stage in STAGES:
        assert f"decode {stage}: " in told
    assert "mJ each, attributed by share of time" in told
    assert main([*arguments, "--json", "--quiet"]) == 0
    stages = json.loads(capsys.readouterr().out)["profile"]
    assert {stage["stage"] for stage in stages} == set(STAGES)
    assert all(stage["us_per_call"] > 0 for stage in stages)
