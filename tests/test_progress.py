"""The summary says what the phases' joules rest on."""

from dataclasses import replace

from engine.energy.simulated import SimulatedProfile
from engine.progress import summary
from engine.result import Budget, Generation, format_j
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


def test_one_tick_is_not_called_ticks() -> None:
    result = generated(150)
    prefill = replace(result.energy.phases["prefill"], ticks=1)
    energy = replace(result.energy, phases={**result.energy.phases, "prefill": prefill})
    [line] = [line for line in summary(replace(result, energy=energy)) if line.startswith("by the power")]
    assert "(1 tick)" in line and "1 ticks" not in line


def test_doubts_of_the_powers_behind_a_model_are_said_in_one_line() -> None:
    result = generated(150)
    assert result.energy.doubts == () and not any("DOUBT" in line for line in summary(result))
    said = ("the readings do not fit the sensor's times", "the power changes by +5.0%")
    lines = summary(replace(result, energy=replace(result.energy, doubts=said)))
    assert f"IN DOUBT: {said[0]}; {said[1]}" in lines


def test_a_refusal_is_said_with_its_reason() -> None:
    result = generated(2)
    lines = "\n".join(summary(result))
    assert "not identifiable: " in lines
    assert "too few to tell" in lines
    assert "by the power model" not in lines


def test_others_on_the_device_are_named() -> None:
    result = generated(2)
    lines = summary(replace(result, energy=replace(result.energy, other_processes=(12, 77))))
    assert any("NOT ALONE" in line and "12, 77" in line for line in lines)
    assert not any("NOT ALONE" in line for line in summary(result))


def test_more_than_the_budget_is_never_said_to_have_been_held_back() -> None:
    result = generated(2)

    def said(reserve_j: float) -> str:
        budget = Budget(30.0, "simulated", 9.0, reserve_j, None, "warm-up")
        [line] = [line for line in summary(replace(result, budget=budget)) if line.startswith("budget:")]
        return line

    assert said(10.0).endswith("10 J were held back for the answer")
    assert "held back for the answer" not in said(107.0)
    assert said(107.0).endswith("more than the budget")


def test_several_samples_are_told_with_the_tokens_and_joules_of_all() -> None:
    result = generated(2)
    [alone, all_of_them] = [summary(result, count)[0] for count in (None, 40)]
    each_j = (result.energy.window_j or 0.0) / 40
    assert alone.startswith(f"{len(result.token_ids)} new tokens at ")
    assert all_of_them.startswith("40 new tokens at ") and f"{format_j(each_j)} J/new token" in all_of_them


def test_a_single_token_has_no_speed() -> None:
    result = generated(2)
    one = replace(
        result, token_ids=result.token_ids[:1], timing=replace(result.timing, decode_tokens_per_s=0.0)
    )
    assert summary(one)[0].startswith("1 new token, stop: ")
