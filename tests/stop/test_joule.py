"""The joule budget on a device whose every joule is known."""

import random
from typing import Any

import pytest

from engine.energy.curve_predict import CurvePredictor
from engine.energy.predict import WarmUp
from engine.energy.simulated import SimulatedProfile
from engine.errors import UsageError
from engine.steps import Step, Stop, StopReason
from engine.stop import JouleBudget
from tests.curves import flat_curve
from tests.simulation import Device, FakeModel, random_profile, run, true_j

RUNS = 1000
GAIN_BOUND = 0.06


def one_run(seed: int, kind: type[JouleBudget] = JouleBudget, *, with_curve: bool = False) -> dict[str, Any]:
    """Random device, sensor, token costs and budget; what happened, in joules.

    `with_curve`: the steps are predicted by an operating curve, as wrong as the warm-up is otherwise.
    """
    rng = random.Random(seed)
    gain = rng.uniform(1 - GAIN_BOUND, 1 + GAIN_BOUND)
    guarded = rng.random() < 0.5
    profile = random_profile(rng, gain=gain)
    device = Device(profile)
    peak_w = profile.decode_w
    token_s = rng.uniform(0.002, 0.06)
    power = rng.uniform(0.5, 0.9)
    jitter = rng.uniform(0.0, 0.3)

    def cost(kind: str, tokens: int) -> tuple[float, float]:
        if kind == "prefill":
            return tokens * token_s * 0.1, peak_w
        seconds = token_s * rng.uniform(1 - jitter, 1 + jitter)
        return seconds, peak_w * min(1.0, power * rng.uniform(1 - jitter, 1 + jitter))

    token_j = token_s * (1 + jitter) * peak_w * min(1.0, power * (1 + jitter))
    slack_j = token_j + (profile.period_s + profile.lag_s) * peak_w
    prefill_j = 20 * token_s * 0.1 * peak_w
    budget_j = prefill_j * 1.3 + 14 * token_j + rng.uniform(1, 28) * slack_j
    answer = rng.randrange(0, 8)
    model = FakeModel(device, cost, answer_tokens=answer)
    policy = kind(budget_j, gain_bound=GAIN_BOUND if guarded else 0.0)
    device.sleep(rng.uniform(0.2, 0.4))
    guess = token_s * rng.uniform(0.6, 1.6)
    predictor = CurvePredictor(flat_curve(guess, guess * peak_w * power)) if with_curve else None
    session, result = run(
        device,
        model,
        [policy],
        warm_up=WarmUp(18, guess, 16, guess * 2),
        budget_j=budget_j,
        predictor=predictor,
    )
    assert result.budget.predictor == ("curve" if with_curve else "warm-up")
    ledger = session.ledger
    closed_s = next(m.start_s for m in ledger.marks if m.shares[0].phase == "answer")
    return {
        "gain": gain,
        "guarded": guarded,
        "budget": budget_j,
        "usable": policy.usable_j,
        "reserve": policy.reserve_j,
        "slack": slack_j,
        "token": token_j,
        "true": true_j(device, ledger.start_s, ledger.end_s),
        "thought": gain * true_j(device, ledger.start_s, closed_s),
        "answered": gain * true_j(device, closed_s, ledger.end_s),
        "reason": result.stop.reason,
        "forced": result.stop.forced_answer,
        "answer_end": result.stop.answer_end,
        "answer": result.answer,
        "answer_tokens": answer,
    }


def check(outcome: dict[str, Any], seed: int) -> float | None:
    """The promises of a budget. Returns the share of the thinking budget used, where one is promised."""
    assert outcome["reason"] == StopReason.JOULE_BUDGET, seed
    # Neither the sensor's own joules ...
    sensor_j = outcome["gain"] * outcome["true"]
    assert sensor_j <= outcome["budget"] + outcome["gain"] * outcome["slack"], (seed, outcome)
    # ... nor, behind the guard band, the true ones pass the budget by more than no reading could tell.
    if outcome["guarded"]:
        assert outcome["true"] <= outcome["budget"] + outcome["slack"], (seed, outcome)
    # The answer is there, whole, and fits what was held back for it.
    assert outcome["forced"], seed
    assert outcome["answer_end"] == StopReason.EOS, (seed, outcome)
    assert outcome["answer"] == "a" * outcome["answer_tokens"], seed
    assert outcome["answered"] <= outcome["reserve"], (seed, outcome)
    if outcome["budget"] < 20 * outcome["slack"]:
        return None
    return outcome["thought"] / (outcome["usable"] - outcome["reserve"])


@pytest.mark.parametrize("runs", [250, pytest.param(RUNS, marks=pytest.mark.slow)])
def test_simulated_budgets_are_kept_used_and_answered(runs: int) -> None:
    shares = [check(one_run(seed), seed) for seed in range(runs)]
    used = [share for share in shares if share is not None]
    assert len(used) > 0.15 * runs
    assert min(used) >= 0.97, sorted(used)[:10]


@pytest.mark.parametrize("runs", [60, pytest.param(RUNS, marks=pytest.mark.slow)])
def test_a_budget_predicted_by_a_curve_is_kept_as_well(runs: int) -> None:
    shares = [check(one_run(seed, with_curve=True), seed) for seed in range(runs)]
    used = [share for share in shares if share is not None]
    assert len(used) > 0.15 * runs
    assert min(used) >= 0.97, sorted(used)[:10]


def test_a_budget_that_runs_out_where_the_model_closes_costs_no_answer() -> None:
    """Budgets one token apart, around the length at which the model closes its thinking by itself."""
    reasons = set()
    for budget_j in range(60, 240, 2):
        device = Device(SimulatedProfile(period_s=0.0, lag_s=0.0, window_s=0.0))
        model = FakeModel(device, lambda kind, tokens: (0.01, 200.0), answer_tokens=3, closes_after=60)
        _, result = run(device, model, [JouleBudget(budget_j)], budget_j=budget_j)
        assert result.answer == "aaa", budget_j
        assert result.stop.answer_end == StopReason.EOS
        assert result.budget.spent_j <= budget_j
        reasons.add(result.stop.reason)
    assert reasons == {StopReason.JOULE_BUDGET, StopReason.EOS}


class TwiceAsMuch(JouleBudget):
    """Spends too much."""

    def on_token(self, step: Step) -> Stop | None:
        self.gain_bound = -1.0
        return super().on_token(step)


class NoReserve(JouleBudget):
    """Thinks until nothing is left for the answer."""

    def on_token(self, step: Step) -> Stop | None:
        spent_j = step.energy().spent_j + step.predicted_j()
        return Stop(StopReason.JOULE_BUDGET) if spent_j > self.usable_j else None


class Timid(JouleBudget):
    """Leaves a tenth of the budget unused."""

    def on_token(self, step: Step) -> Stop | None:
        self.gain_bound = 0.1
        stop = super().on_token(step)
        self.gain_bound = 0.0
        return stop


@pytest.mark.parametrize("wrong", [TwiceAsMuch, NoReserve, Timid])
def test_a_wrong_budget_would_be_caught(wrong: type[JouleBudget]) -> None:
    def caught(seed: int) -> bool:
        try:
            share = check(one_run(seed, wrong), seed)
        except AssertionError:
            return True
        return share is not None and share < 0.97

    assert any(caught(seed) for seed in range(20))


@pytest.mark.parametrize("joules", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_positive(joules: float) -> None:
    with pytest.raises(UsageError):
        JouleBudget(joules)
