import random
from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest

from engine.energy.curve_json import from_json, to_json
from engine.errors import UsageError
from engine.stop.rule import ANY, POOLED, Axes, CategoryRule, State, StoppingRule, decisions, look_up
from engine.stop.signals import Signals
from tests.curves import KEY, curve

LOW, HIGH = (0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)


def state(checkpoint, cell, correct, **given) -> State:
    """Answers for 0.1 J, the way on for 1 J; both cells behind it are equally likely."""
    usual = dict(runs=10, answer_j=0.1, closes=0.0, closing_correct=0.0, closing_j=0.0, onward_j=1.0)
    usual["onward"] = ((LOW, 0.5), (HIGH, 0.5))
    return State(checkpoint=checkpoint, cell=cell, correct=correct, **(usual | given))


def two_steps() -> CategoryRule:
    ends = {"closes": 1.0, "closing_correct": 0.6, "closing_j": 0.2, "onward": (), "onward_j": 0.0}
    return CategoryRule(
        Axes(stability=(2.0,)),
        (
            state(0, ANY, 0.4),
            state(0, LOW, 0.4, closes=0.2, closing_correct=0.5, closing_j=2.0),
            state(1, ANY, 0.6, **ends),
            state(1, LOW, 0.3, **ends),
            state(1, HIGH, 0.9, **ends),
        ),
    )


def stopping(**categories: CategoryRule) -> StoppingRule:
    rules = {POOLED: two_steps()} | categories
    return StoppingRule(KEY.model, KEY.quantization, "simulated", "2026-01-02", 100, 3.0, rules)


def test_values_are_those_worked_out_by_hand():
    solved = decisions(two_steps(), 10.0)  # 0.1 accuracy a joule
    assert solved[1, LOW].stop == pytest.approx(0.29)
    assert solved[1, LOW].go_on == pytest.approx(0.58) and not solved[1, LOW].stops
    assert solved[1, HIGH].stop == pytest.approx(0.89) and solved[1, HIGH].stops
    ahead = 0.5 * 0.58 + 0.5 * 0.89 - 0.1
    assert solved[0, LOW].go_on == pytest.approx(0.2 * (0.5 - 0.2) + 0.8 * ahead)
    assert not solved[0, LOW].stops


def test_a_price_that_is_high_enough_answers_at_once():
    assert not decisions(two_steps(), 0.0)[0, LOW].stops
    assert decisions(two_steps(), 1000.0)[0, LOW].stops


def test_no_other_way_to_stop_is_worth_more():
    rng = random.Random(0)
    for _ in range(30):
        rule = random_rule(rng)
        for price in (0.0, 5.0, 40.0):
            best = decisions(rule, price)
            states = [(s.checkpoint, s.cell) for s in rule.states if s.cell != ANY]
            for stops in product((True, False), repeat=len(states)):
                value = worth(rule, price / 100, dict(zip(states, stops, strict=True)), 0, LOW)
                assert value <= max(best[0, LOW].stop, best[0, LOW].go_on) + 1e-9


def random_rule(rng: random.Random) -> CategoryRule:
    states = []
    for checkpoint, cell in (
        (0, ANY),
        (0, LOW),
        (1, ANY),
        (1, LOW),
        (1, HIGH),
        (2, ANY),
        (2, LOW),
        (2, HIGH),
    ):
        p, last = rng.random(), checkpoint == 2
        onward = () if last else ((LOW, p), (HIGH, 1 - p))
        states.append(
            state(
                checkpoint,
                cell,
                rng.random(),
                closes=1.0 if last else rng.random(),
                closing_correct=rng.random(),
                closing_j=rng.random(),
                onward_j=rng.random(),
                onward=onward,
            )
        )
    return CategoryRule(Axes(stability=(2.0,)), tuple(states))


def worth(rule: CategoryRule, per_j: float, stops: dict, checkpoint: int, cell) -> float:
    """What this way to stop is worth from a state on."""
    [found] = [s for s in rule.states if (s.checkpoint, s.cell) == (checkpoint, cell)]
    if stops[checkpoint, cell]:
        return found.correct - per_j * found.answer_j
    value = found.closes * (found.closing_correct - per_j * found.closing_j)
    if found.closes < 1:
        ahead = sum(p * worth(rule, per_j, stops, checkpoint + 1, to) for to, p in found.onward)
        value += (1 - found.closes) * (ahead - per_j * found.onward_j)
    return value


def test_a_cell_that_no_run_saw_is_decided_by_its_checkpoint_and_a_checkpoint_beyond_by_none():
    solved = decisions(two_steps(), 10.0)
    assert look_up(solved, 1, (7, 7, 7, 7, 7, 7)) == solved[1, ANY]
    assert look_up(solved, 2, LOW) is None


def test_signals_fall_into_the_bins_between_the_cuts():
    axes = Axes(stability=(2.0, 4.0), size=(10.0,), confidence=(0.5,), surprisal=(0.1, 1.0), worst=(1.0,))
    assert axes.cell(Signals(3, 9, "x", 1, 1), 9, 0.4) == (0, 0, 0, 0, 0, 0)
    assert axes.cell(Signals(3, 9, "x", 2, 5, 0.1, 1.5), 10, 0.5) == (1, 0, 1, 1, 1, 1)
    assert axes.cell(Signals(3, 9, "x", 9, 1, 2.0, 2.0), 99) == (2, 0, 1, 0, 2, 1)


def test_a_rule_goes_into_the_curve_file_and_comes_back():
    kept = replace(curve(), stopping=stopping(verify=two_steps()))
    again = from_json(to_json(kept))
    assert again == kept
    assert decisions(again.stopping.categories["verify"], 3.0) == decisions(two_steps(), 3.0)


def test_a_curve_without_a_rule_still_loads():
    content = to_json(curve())
    del content["stopping"]
    assert from_json(content) == curve()


@pytest.mark.parametrize(("name", "value"), [("model", "another"), ("quantization", "int8")])
def test_a_rule_of_another_model_or_quantisation_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"{name} '{value}'.*bench.calibrate"):
        replace(curve(), stopping=replace(stopping(), **{name: value}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"correct": 1.5}, "outside"),
        ({"onward_j": -1.0}, "negative"),
        ({"onward": ((LOW, 0.4),)}, "add up"),
    ],
)
def test_states_that_make_no_sense_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(state(0, LOW, 0.4), **change)


def test_checkpoints_with_a_gap_cuts_that_fall_and_a_rule_without_all_are_refused():
    with pytest.raises(ValueError, match="numbered"):
        CategoryRule(Axes(), (state(1, ANY, 0.4),))
    with pytest.raises(ValueError, match="bins of 6 signals: calibrate again"):
        CategoryRule(Axes(), (state(0, ANY, 0.4), state(0, (0, 0, 0, 0), 0.4)))
    with pytest.raises(ValueError, match="rise"):
        Axes(size=(3.0, 2.0))
    with pytest.raises(ValueError, match="all"):
        replace(stopping(), categories={"verify": two_steps()})


def test_an_unseen_category_gets_the_rule_of_all_together_and_rows_share_one_rule():
    rule = stopping(verify=two_steps())
    assert rule.of("verify")[0] == "verify"
    assert rule.of("poetry")[0] == rule.of(None)[0] == POOLED
    assert deepcopy(rule) is rule
