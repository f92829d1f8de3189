from dataclasses import replace

import pytest

from engine.errors import UsageError
from engine.steps import Context, Phase, Step, Stop
from engine.stop import MarginalValue
from engine.stop.auto import auto_policy
from engine.stop.dial import Dial
from tests.curves import KEY, curve
from tests.stop.test_rule import stopping, two_steps


def begun(policy: MarginalValue, **given) -> MarginalValue:
    usual = dict(row=0, prompt_tokens=3, max_new_tokens=99, budget_j=None, answer_cost_tokens=4)
    policy.reset(Context(**(usual | dict(step_separator="\n", gain_error=None) | given)))
    return policy


def token(index: int, text: str, phase: Phase = Phase.THINK) -> Step:
    return Step(0, index, 0, text, phase, 1)


def test_it_stops_where_the_rule_says_and_looks_at_checkpoints_alone():
    policy = begun(MarginalValue(10.0, rule=stopping()))
    assert policy.on_token(token(0, "4")) is None  # going on is worth more, see tests of the rule
    assert policy.on_token(token(1, "+")) is None
    assert policy.on_token(token(2, "\n")) is None  # stability 1: the cell that is better off thinking on
    stable = begun(MarginalValue(1000.0, rule=stopping()))
    assert stable.on_token(token(0, "4")) == Stop()
    assert stable.on_token(token(1, "\n", Phase.ANSWER)) is None


def test_beyond_what_any_run_reached_it_stops():
    policy = begun(MarginalValue(0.0, rule=stopping()))
    answers = [policy.on_token(token(i, "x\n")) for i in range(3)]
    assert answers[-1] == Stop()


def test_the_price_may_change_while_the_row_runs():
    dial = Dial(price=10.0)
    policy = begun(MarginalValue(rule=stopping()), dial=dial)
    assert policy.reads_price and policy.on_token(token(0, "4")) is None
    dial.price = 1000.0
    assert policy.on_token(token(1, "\n")) == Stop()
    assert "1000 points" in policy.description


def test_its_own_price_wins_over_the_request_and_the_rule_has_one_where_none_is_given():
    assert begun(MarginalValue(7.0, rule=stopping()), dial=Dial(price=2.0)).price_now == 7.0
    assert begun(MarginalValue(rule=stopping()), dial=Dial(price=2.0)).price_now == 2.0
    assert begun(MarginalValue(rule=stopping()), dial=Dial()).price_now == 3.0
    with pytest.raises(UsageError, match="price"):
        MarginalValue(-1.0)


def test_another_temperature_than_the_calibrations_is_said():
    rule = stopping()
    assert (
        "calibrated at temperature 1, not 0" in begun(MarginalValue(rule=rule), temperature=0.0).description
    )
    assert "temperature" not in begun(MarginalValue(rule=rule), temperature=1.0).description


def test_a_category_that_no_calibration_saw_is_said():
    rule = stopping(verify=two_steps())
    assert "'verify'" in begun(MarginalValue(rule=rule), category="verify").description
    assert "no calibration saw 'poetry'" in begun(MarginalValue(rule=rule), category="poetry").description
    assert "names none" in begun(MarginalValue(rule=rule)).description


def test_the_rule_comes_from_the_curve_and_one_of_another_model_is_refused():
    kept = replace(curve(), stopping=stopping())
    assert begun(MarginalValue(), curve=kept).price_now == 3.0
    with pytest.raises(UsageError, match="calibrated"):
        begun(MarginalValue(), curve=curve())
    with pytest.raises(UsageError, match="model 'other'"):
        begun(MarginalValue(rule=replace(stopping(), model="other")), curve=kept)
    with pytest.raises(UsageError, match="marks its thinking"):
        begun(MarginalValue(rule=stopping()), step_separator=None)


def test_auto_is_the_rule_where_there_is_one():
    policy = auto_policy(replace(curve(), stopping=stopping()), KEY, thinks=True)
    assert policy.reads_price and policy.name == "MarginalValue"
    policy.reset(Context(0, 3, 99, None, 4, "\n", None, curve=replace(curve(), stopping=stopping())))
    assert "calibrated for this model" in policy.description
    assert auto_policy(curve(), KEY, thinks=True).name == "AnswerStability"


def test_the_rule_of_another_devices_curve_is_used_and_said_to_be_its():
    kept = replace(curve(), stopping=stopping())
    told = {}
    for device in (KEY.device, "another chip"):
        policy = auto_policy(kept, replace(KEY, device=device), thinks=True)
        policy.reset(Context(0, 3, 99, None, 4, "\n", None))
        assert policy.name == "MarginalValue"
        told[device] = policy.description
    assert "weigh" not in told[KEY.device]
    assert (
        "the operating curve is of device 'a chip', this run has 'another chip': rule and price weigh that "
        "curve's joules, not this run's" in told["another chip"]
    )
