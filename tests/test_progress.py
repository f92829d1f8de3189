"""The summary says what the phases' joules rest on."""

from dataclasses import replace

from engine.energy.simulated import SimulatedProfile
from engine.progress import summary
from engine.result import Generation
from tests.simulation import Device, FakeModel, run


def generated(answer_tokens: int) -> Generation:
    device = Device(SimulatedProfile())
    device.sleep(0.3)
    model = FakeModel(
        device,
        lambda kind, tokens: (0.15 if kind == "prefill" else 0.012, 500.0),
        answer_tokens=answer_tokens,
        closes_after=1,
    )
    return run(device, model, [])[1]


def test_a_models_phases_have_their_intervals_and_ticks() -> None:
    result = generated(150)
    assert result.energy.attribution == "model"
    [line] = [line for line in summary(result) if line.startswith("by the power model")]
    prefill = result.energy.phases["prefill"]
    assert f"({prefill.ticks} ticks)" in line
    assert " ± " in line
    assert line.endswith("only ticks of 100 ms are measured")


def test_a_refusal_is_said_with_its_reason() -> None:
    result = generated(2)
    lines = "\n".join(summary(result))
    assert "not identifiable: " in lines
    assert "ticks are too few" in lines
    assert "by the power model" not in lines


def test_others_on_the_device_are_named() -> None:
    result = generated(2)
    lines = summary(replace(result, energy=replace(result.energy, other_processes=(12, 77))))
    assert any("NOT ALONE" in line and "12, 77" in line for line in lines)
    assert not any("NOT ALONE" in line for line in summary(result))
