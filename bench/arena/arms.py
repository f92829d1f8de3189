"""Who plays: arms by name, each a list of policies for the engine.

`full` thinks to its own end, `direct` stops at the first token, `tokens=N` after N tokens; `marginal-value`
plays at the rule's price, `marginal-value@L` at L points per joule; everything else is a policy as `--stop`
names it, a user's own `FILE.py:CLASS` included.
"""

import math
from dataclasses import dataclass

from engine.errors import UsageError
from engine.steps import StopPolicy
from engine.stop.marginal_value import MarginalValue
from engine.stop.rule import StoppingRule
from engine.stop.token import TokenBudget

FULL, DIRECT, MARGINAL = "full", "direct", "marginal-value"
TOKENS = "tokens="
TOKEN_GRID = (8, 16, 32, 64)
PRICE_FACTORS = (0.25, 0.5, 2.0, 4.0)
NAMED = ("confidence", "stability", "tail", "eat", "give-up:tokens=64")


@dataclass(frozen=True)
class Arm:
    """`price`: accuracy points per joule that it weighs, `rule`: when its rule was fitted; None for none."""

    name: str
    policies: tuple[StopPolicy | str, ...]
    price: float | None = None
    rule: str | None = None


def arm(name: str, rule: StoppingRule | None) -> Arm:
    """The arm of a name. Raises `UsageError` for a rule that is missing and a price that is none."""
    if name == FULL:
        return Arm(name, ())
    if name == DIRECT:
        return Arm(name, (TokenBudget(1),))
    kind, _, value = name.partition("=")
    if kind == "tokens" and value.isdigit():
        return Arm(name, (TokenBudget(int(value)),))
    kind, at, value = name.partition("@")
    if kind != MARGINAL:
        return Arm(name, (name,))
    if rule is None:
        raise UsageError(
            "no stopping rule was calibrated for this model here: python -m bench.calibrate fits one"
        )
    try:
        price = float(value) if at else rule.price
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise UsageError(f"the price of {name} must be a number of at least 0")
    return Arm(name, (MarginalValue(price, rule=rule),), price, rule.date)


def usual(rule: StoppingRule | None) -> list[str]:
    """Names of the arms that every comparison has; those of the rule only where there is one."""
    names = [FULL, DIRECT, *(f"{TOKENS}{count}" for count in TOKEN_GRID), *NAMED]
    if rule is not None:
        names += [MARGINAL, *(f"{MARGINAL}@{rule.price * factor:.4g}" for factor in PRICE_FACTORS)]
    return names
