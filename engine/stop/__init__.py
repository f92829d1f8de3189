"""Policies that end thinking, or a row: each short enough to read in a minute."""

from engine.stop.base import Policy, Wrapper
from engine.stop.checkpoints import Checkpoints
from engine.stop.combine import After, All, Any
from engine.stop.confidence import AnswerConfidence
from engine.stop.dial import Dial
from engine.stop.entropy import EAT
from engine.stop.give_up import GiveUp
from engine.stop.governor import ProbeGovernor
from engine.stop.hidden_probe import HiddenProbe
from engine.stop.joule import JouleBudget
from engine.stop.load import load_policy
from engine.stop.marginal_value import MarginalValue
from engine.stop.names import policy_named
from engine.stop.rule import StoppingRule
from engine.stop.stability import AnswerStability, TailStability
from engine.stop.step import StepBudget
from engine.stop.token import TokenBudget

__all__ = [
    "EAT",
    "After",
    "All",
    "AnswerConfidence",
    "AnswerStability",
    "Any",
    "Checkpoints",
    "Dial",
    "GiveUp",
    "HiddenProbe",
    "JouleBudget",
    "MarginalValue",
    "Policy",
    "ProbeGovernor",
    "StepBudget",
    "StoppingRule",
    "TailStability",
    "TokenBudget",
    "Wrapper",
    "load_policy",
    "policy_named",
]
