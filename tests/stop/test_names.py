"""Policies by name."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import UsageError
from engine.steps import StopPolicy
from engine.stop import (
    EAT,
    AnswerConfidence,
    AnswerStability,
    GiveUp,
    HiddenProbe,
    MarginalValue,
    Policy,
    ProbeGovernor,
    StepBudget,
    TailStability,
    TokenBudget,
    policy_named,
)
from engine.stop.auto import Auto
from engine.stop.names import NAMES, resolved


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        ("token:tokens=50", TokenBudget, {"tokens": 50}),
        ("step:steps=3", StepBudget, {"steps": 3}),
        ("confidence", AnswerConfidence, {"threshold": 0.95, "choices": "", "every": None}),
        (
            "confidence:threshold=0.9,choices=ABCD",
            AnswerConfidence,
            {"threshold": 0.9, "choices": "ABCD", "every": None},
        ),
        ("stability:k=3", AnswerStability, {"k": 3, "answer_tokens": 4}),
        ("tail:k=4", TailStability, {"k": 4}),
        ("eat:alpha=0.2,delta=0.01", EAT, {"alpha": 0.2, "delta": 0.01, "least": 4, "every": None}),
        ("give-up:tokens=200", GiveUp, {"tokens": 200, "steps": None, "below": None}),
    ],
)
def test_a_name_with_its_arguments_is_a_policy(
    text: str, kind: type[Policy], parameters: dict[str, object]
) -> None:
    policy = policy_named(text)
    assert type(policy) is kind
    assert parameters.items() <= policy.parameters.items()


def test_every_name_has_a_test_here_and_arguments_that_its_policy_takes(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", w=np.ones(3), b=0.0, threshold=0.5, layer=1)
    assert isinstance(policy_named(f"hidden:file={tmp_path / 'p.npz'},every=8"), HiddenProbe)
    assert set(NAMES) == {"token", "step", "confidence", "stability", "tail", "eat", "hidden", "give-up"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sunshine",
            "unknown stop policy 'sunshine'; known: auto, none, token, step, confidence, stability, tail",
        ),
        ("", "unknown stop policy"),
        ("token", "missing a required argument: 'tokens'; its arguments: tokens"),
        ("token:tokens=many", "tokens must be a whole number, not 'many'"),
        ("confidence:threshold=high", "threshold must be a number, not 'high'"),
        ("confidence:threshold=2", "must lie in"),
        ("confidence:k=2", "'k=2' is no argument; known: threshold=…, choices=…, every=…"),
        ("tail:k=2,k=3", "k is given twice"),
        ("tail:", "'' is no argument"),
        ("tail:k", "'k' is no argument"),
        ("nowhere.py:Policy", "no file nowhere.py"),
    ],
)
def test_what_is_no_policy_gets_one_line_that_lists_what_is(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        policy_named(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Probing(Policy):
    needs = frozenset({"probe"})


def shares(policies: list[StopPolicy | str], share: float | None) -> list[float | None]:
    made = resolved(policies, Probing, share)
    return [policy.probe_share if isinstance(policy, ProbeGovernor) else None for policy in made]


def test_named_policies_that_probe_are_governed_together() -> None:
    assert shares(["confidence", "tail"], None) == [0.05, None]
    assert shares(["confidence", "none", "stability", "auto"], 0.3) == [pytest.approx(0.1)] * 3
    assert shares(["auto"], None) == [0.05]


def test_a_rule_that_prices_its_probes_is_governed_only_when_a_share_is_named() -> None:
    """A probe that was denied would leave it without the decision that its calibration counted on."""

    class Pricing(Probing):
        prices_probes = True

    def auto(share: float | None) -> object:
        return resolved(["auto"], lambda: Auto(Pricing(), "calibrated"), share)[0]

    assert isinstance(auto(None), Auto)
    assert isinstance(auto(0.2), ProbeGovernor)
    assert MarginalValue.prices_probes


def test_a_users_own_policy_is_governed_when_a_share_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from engine.stop import Policy\nclass Mine(Policy):\n    needs = frozenset({'probe'})\n")
    assert shares([f"{file}:Mine", Probing()], None) == [None, None]
    assert shares([f"{file}:Mine", Probing()], 0.2) == [0.1, 0.1]
