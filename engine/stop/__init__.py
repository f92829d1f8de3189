"""Policies that end thinking, or a row: each short enough to read in a minute."""

from engine.stop.base import Policy
from engine.stop.joule import JouleBudget
from engine.stop.load import load_policy
from engine.stop.marginal_value import MarginalValue
from engine.stop.rule import StoppingRule
from engine.stop.step import StepBudget
from engine.stop.token import TokenBudget

__all__ = [
    "JouleBudget",
    "MarginalValue",
    "Policy",
    "StepBudget",
    "StoppingRule",
    "TokenBudget",
    "load_policy",
]
