"""Strategies by the names that the command line has for them."""

from collections.abc import Sequence

from engine.engine import Engine
from engine.errors import UsageError
from engine.strategy.base import Strategy
from engine.strategy.best_of_n import BestOfN
from engine.strategy.cot import Cot
from engine.strategy.direct import Direct
from engine.strategy.samples import MOST_SAMPLES, check_temperature
from engine.strategy.vote import Until, Vote

NAMES = ("direct", "cot", "vote", "best-of-n")


def strategy_named(
    name: str,
    *,
    temperature: float,
    samples: int | None = None,
    choices: Sequence[str] = (),
    until: str | None = None,
    price_joules: float | None = None,
    independent: bool = False,
) -> Strategy:
    """Raises `UsageError` for an unknown name, and for what a strategy has no use for."""
    if name not in NAMES:
        raise UsageError(f"unknown strategy {name!r}; there are {', '.join(NAMES)}")
    unused = {
        "samples": samples is not None and name not in ("vote", "best-of-n"),
        "independent samples": independent and name not in ("vote", "best-of-n"),
        "choices": bool(choices) and name not in ("direct", "vote"),
        "an end of the vote": until is not None and name != "vote",
        "a price per joule": price_joules is not None and name != "vote",
    }
    for what, is_unused in unused.items():
        if is_unused:
            raise UsageError(f"the strategy {name} takes no {what.removeprefix('an ').removeprefix('a ')}")
    if name == "direct":
        return Direct(tuple(choices))
    if name == "cot":
        return Cot()
    found: Strategy
    count = MOST_SAMPLES if samples is None else samples
    if name == "best-of-n":
        found = BestOfN(count, independent=independent)
    else:
        end = Until.DECIDED if until is None else Until(until)
        found = Vote(count, tuple(choices), end, price_joules=price_joules, independent=independent)
    if not choices:
        check_temperature(name, temperature)
    return found


def default_strategy(engine: Engine) -> Strategy:
    """Plain generation: a chain of thought on a model that marks its thinking, else a direct answer."""
    return Direct() if engine.thinking is None else Cot()
