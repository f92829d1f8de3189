"""The joule budget on a device whose every joule is known."""

import random

import pytest
from tests.simulation import Device, FakeModel, random_profile, run, true_j

from engine.energy.predict import WarmUp
from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import JouleBudget

RUNS = 1000
GAIN_BOUND = 0.06


def one_run(seed: int) -> dict[str, float | str | bool | None]:
    """Random device, sensor, token costs and budget; what happened, in joules."""
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
    slack_j = token_j + (profile.period_s + profile.lag_s + profile.window_s) * peak_w
    prefill_j = 20 * token_s * 0.1 * peak_w
    budget_j = prefill_j * 1.3 + 14 * token_j + rng.uniform(1, 28) * slack_j
    answer = rng.randrange(0, 8)
    model = FakeModel(device, cost, answer_tokens=answer)
    policy = JouleBudget(budget_j, gain_bound=GAIN_BOUND if guarded else 0.0)
    device.sleep(rng.uniform(0.2, 0.4))
    guess = token_s * rng.uniform(0.6, 1.6)
    session, result = run(
        device, model, [policy], warm_up=WarmUp(18, guess, 16, guess * 2), budget_j=budget_j
    )
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


def test_a_thousand_simulated_budgets_are_kept_used_and_answered() -> None:
    used = []
    for seed in range(RUNS):
        run_ = one_run(seed)
        assert run_["reason"] == StopReason.JOULE_BUDGET, seed
        # Neither the sensor's own joules ...
        sensor_j = run_["gain"] * run_["true"]
        assert sensor_j <= run_["budget"] + run_["gain"] * run_["slack"], (seed, run_)
        # ... nor, behind the guard band, the true ones pass the budget by more than what no reading tells.
        if run_["guarded"]:
            assert run_["true"] <= run_["budget"] + run_["slack"], (seed, run_)
        # The answer is there, whole, and fits what was held back for it.
        assert run_["forced"], seed
        assert run_["answer_end"] == StopReason.EOS, (seed, run_)
        assert run_["answer"] == "a" * run_["answer_tokens"], seed
        assert run_["answered"] <= run_["reserve"], (seed, run_)
        if run_["budget"] >= 20 * run_["slack"]:
            used.append(run_["thought"] / (run_["usable"] - run_["reserve"]))
    assert len(used) > 150
    assert min(used) >= 0.97, sorted(used)[:10]


def test_a_budget_that_ignored_the_lag_would_be_caught() -> None:
    """The check above can fail: with a budget half as large again the joules pass the bound."""
    rng = random.Random(1)
    profile = random_profile(rng)
    device = Device(profile)
    model = FakeModel(device, lambda kind, tokens: (0.01, profile.decode_w), answer_tokens=2)
    session, _ = run(device, model, [JouleBudget(150.0)], budget_j=100.0)
    slack_j = (0.01 + profile.period_s + profile.lag_s + profile.window_s) * profile.decode_w
    spent_j = true_j(device, session.ledger.start_s, session.ledger.end_s)
    assert spent_j > 100.0 + slack_j or 150.0 < 100.0 + slack_j


@pytest.mark.parametrize("joules", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_positive(joules: float) -> None:
    with pytest.raises(UsageError):
        JouleBudget(joules)
