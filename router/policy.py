"""Which arm answers, given what each is believed to do: pure functions of estimates, limits and conditions.

Knows no model, no meter, no network; imports the standard library and numpy. Array functions (N queries, A
arms) are what calibrations and experiments use, `choose` and `escalate` what one request does.

Grid intensity scales the grams of every arm in one region alike, so it can never change which arm is the
cleaner one. What it does: it tightens token budgets, raises the price of a joule and fills a limit in grams.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Picks = NDArray[np.int_]

POINTS = 100.0  # accuracy points in an accuracy of 1
J_PER_KWH = 3.6e6
LEAST_TOKENS = 16  # no token budget is tightened below
LEAST_GAIN = 0.05  # in p, for which a further answer is asked for; 0.02 took more joules for none more right
_DEAR = 1e12  # joules, of an arm whose own are not known: dearer than any, and still a number
# What a request takes that can be limited, by the name of its limit: unit, and in words.
_TAKEN = {
    "joules": ("J", "joules"),
    "hourly_left_j": ("J", "joules left this hour"),
    "latency_s": ("s", "seconds"),
    "grams": ("g CO2e", "grams"),
}


def most_accurate(p: Array, cost: Array) -> Picks:
    """argmax p, the cheapest of equals. p, cost (N, A); p nan: cannot be had; cost nan: dearer than any."""
    best = np.nanmax(p, axis=1, keepdims=True)
    return np.argmin(np.where(p >= best - 1e-9, dear(cost), np.inf), axis=1)


def cheapest_certain(p: Array, cost: Array, threshold: float) -> Picks:
    """argmin cost where p ≥ `threshold`; where no arm is that certain, the most accurate."""
    certain = np.where(p >= threshold, dear(cost), np.inf)
    cheapest = np.argmin(certain, axis=1)
    none = ~np.isfinite(np.take_along_axis(certain, cheapest[:, None], axis=1)[:, 0])
    return np.where(none, most_accurate(p, cost), cheapest)


def priced(p: Array, cost: Array, price: float) -> Picks:
    """argmax 100·p − price·cost: `price` accuracy points are what a joule has to gain."""
    return np.nanargmax(POINTS * p - price * dear(cost), axis=1)


def dear(cost: Array) -> Array:
    """With a cost that is not known, nan, beyond all others."""
    return np.where(np.isnan(cost), _DEAR, cost)


def picked(values: Array, arms: Picks) -> Array:
    """Of each query's chosen arm. values (N, A) -> (N,)."""
    return np.take_along_axis(values, arms[:, None], axis=1)[:, 0]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an arm is believed to do with one query. `family`: arms that differ in token budget alone.

    `energy_j` is expected, `energy_q90_j` and `elapsed_q90_s` hold in nine cases of ten; nan and None: not
    known (and seconds: not asked for). `rank_j`: what a certified threshold ranks arms by.
    """

    arm: str
    family: str
    budget_tokens: int
    p: float = math.nan
    p_low: float = math.nan
    p_high: float = math.nan
    energy_j: float | None = None
    energy_median_j: float | None = None
    energy_q90_j: float | None = None
    elapsed_q90_s: float | None = None
    rank_j: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. With a `threshold` the cheapest arm of p ≥ `threshold` is sought, else the likeliest.

    `price`: accuracy points that a joule must gain. `strict`: rather no answer than one beyond a limit.
    """

    joules: float | None = None
    latency_s: float | None = None
    grams: float | None = None
    hourly_left_j: float | None = None
    threshold: float | None = None
    price: float = 0.0
    strict: bool = False

    def __post_init__(self) -> None:
        for name in (*_TAKEN, "threshold", "price"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of at least 0, not {value}")


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of the moment. `queue`: requests that wait; `utilisation`: of the device, 0 to 1.

    `intensity_g_per_kwh`, with the data centre's `pue` on top; beyond `usual_g_per_kwh` it tightens.
    `hourly_share`: of the joules of an hour, what the last 60 minutes have left.
    """

    queue: int = 0
    utilisation: float = 0.0
    intensity_g_per_kwh: float | None = None
    usual_g_per_kwh: float | None = None
    hourly_share: float = 1.0
    pue: float = 1.0

    def __post_init__(self) -> None:
        grams = (self.intensity_g_per_kwh or 0.0, self.usual_g_per_kwh or 0.0)
        sound = self.queue >= 0 and 0 <= self.utilisation <= 1 and 1 <= self.pue < math.inf
        if not sound or not all(0 <= value < math.inf for value in grams):
            raise ValueError("a queue and grams are at least 0, a utilisation 0 to 1, a PUE at least 1")

    @property
    def pressure(self) -> float:
        """≥ 1, and grows with every one of them: what budgets are divided and prices multiplied by."""
        load = (1 + self.queue) * (1 + max(self.utilisation - 0.5, 0.0) * 2)
        grid = 1.0
        if self.intensity_g_per_kwh is not None and self.usual_g_per_kwh:
            grid = max(self.intensity_g_per_kwh / self.usual_g_per_kwh, 1.0)
        return load * grid / min(max(self.hourly_share, 1e-3), 1.0)

    def grams(self, joules: float | None) -> float | None:
        """CO2e of so many joules; None where they or the intensity are not known."""
        if self.intensity_g_per_kwh is None or joules is None:
            return None
        return joules * self.pue / J_PER_KWH * self.intensity_g_per_kwh

    def taken(self, joules: float | None, seconds: float | None) -> dict[str, float | None]:
        """By the name of what limits it."""
        grams = self.grams(joules)
        return {"joules": joules, "hourly_left_j": joules, "latency_s": seconds, "grams": grams}


@dataclass(frozen=True, slots=True)
class Choice:
    """`removed`: by arm, what took it out. `fallback`: why the choice is none of the policy's; None if it is.

    `budget_tokens`: what the arm may think, after tightening, and `p` that it is right with so many. `arm`
    None: infeasible, in strict mode alone. `given_up`: how much likelier the likeliest arm of all was to be
    right. None where nobody can tell.
    """

    arm: str | None
    budget_tokens: int
    why: str
    removed: Mapping[str, str] = field(default_factory=dict)
    fallback: str | None = None
    given_up: float | None = None
    p: float | None = None


def tightened(estimates: Sequence[Estimate], pressure: float) -> tuple[list[Estimate], dict[str, str]]:
    """(arms that keep the token cap, why the others went). A family's cap: its largest budget / `pressure`.

    The arm next above the cap is cut to it, and believed to lie between itself and the one next below;
    without one below, nothing is known of it, and it goes. Where all would go, the smallest is cut, never
    below 16.
    """
    if pressure <= 1:  # every query passes here
        return list(estimates), {}
    kept, removed = [], {}
    for one in estimates:
        family = [other for other in estimates if other.family == one.family]
        cap = int(max(other.budget_tokens for other in family) / pressure)
        below = [other for other in family if other.budget_tokens <= cap]
        above = [other.budget_tokens for other in family if other.budget_tokens > cap]
        if one.budget_tokens <= cap:
            kept.append(one)
        elif below and one.budget_tokens == min(above):
            kept.append(_between(max(below, key=lambda other: other.budget_tokens), one, cap))
        else:
            removed[one.arm] = f"{one.budget_tokens} tokens of thinking; {cap} are allowed at present"
    if not kept and estimates:
        least = min(estimates, key=lambda one: one.budget_tokens)
        removed.pop(least.arm)
        kept = [replace(least, budget_tokens=max(int(least.budget_tokens / pressure), LEAST_TOKENS))]
    return kept, removed


def _between(low: Estimate, high: Estimate, tokens: int) -> Estimate:
    """`high` with so many tokens, fewer than it was calibrated with: on the line to `low`."""
    share = (tokens - low.budget_tokens) / (high.budget_tokens - low.budget_tokens)
    names = [part.name for part in fields(Estimate)[3:]]  # all behind the budget
    ends = {name: (getattr(low, name), getattr(high, name)) for name in names}
    mixed: dict[str, Any] = {
        name: None if None in (a, b) else a + share * (b - a) for name, (a, b) in ends.items()
    }
    return replace(high, budget_tokens=tokens, **mixed)


def over_limit(one: Estimate, limits: Limits, conditions: Conditions) -> str | None:
    """Which limit its nine cases of ten break, or cannot be checked against; None where all hold."""
    taken = conditions.taken(one.energy_q90_j, one.elapsed_q90_s)
    for name, (unit, words) in _TAKEN.items():
        limit, value = getattr(limits, name), taken[name]
        if limit is not None and value is None:
            return f"the limit of {words} cannot be checked: no estimate"
        if limit is not None and value is not None and value > limit:
            return f"{value:.3g} {unit} in nine cases of ten, over the limit of {words}, {limit:.3g}"
    return None


def choose(
    estimates: Sequence[Estimate],
    limits: Limits,
    conditions: Conditions,
    *,
    fallback: str,
    tried: Collection[str] = (),
    blind: str | None = None,
) -> Choice:
    """The arm for one query. `blind`: why nothing is known of it; then `fallback`, the best fixed arm, it is.

    `estimates`: of all arms, also those `tried`, so that what pressure took away stays away while others are
    left. Where limits leave no arm, the one that takes the least. Strict, either is no choice at all.
    """
    known, removed = tightened(estimates, conditions.pressure)
    if not (known := [one for one in known if one.arm not in tried]):
        known, removed = tightened([o for o in estimates if o.arm not in tried], conditions.pressure)
    limited = any(getattr(limits, name) is not None for name in _TAKEN)
    if blind is None and limited:
        removed |= {one.arm: why for one in known if (why := over_limit(one, limits, conditions))}
    left = [one for one in known if one.arm not in removed]
    beyond = blind or (None if left else "no arm keeps the limits")
    if limits.strict and (not left or (blind is not None and limited)):
        return Choice(None, 0, f"infeasible: {beyond}", removed)
    if blind is not None:
        named = [one for one in known if one.arm == fallback]
        best, why = (named or known)[0], "the best fixed arm" if named else "the first that is left"
    elif not left:
        best = min(known, key=lambda one: math.inf if one.energy_j is None else one.energy_j)
        why = "it takes the least"
    else:
        best, why = _best(left, limits, limits.price * conditions.pressure)
    if blind is not None:
        return Choice(best.arm, best.budget_tokens, why, removed, beyond)
    given_up = max(one.p for one in estimates) - best.p
    return Choice(best.arm, best.budget_tokens, why, removed, beyond, given_up, best.p)


def _best(left: Sequence[Estimate], limits: Limits, price: float) -> tuple[Estimate, str]:
    """Of the arms that keep the limits, and why."""

    def joules(name: str) -> Array:
        return np.array([[getattr(one, name) for one in left]], dtype=np.float64)  # None becomes nan

    p, cost = joules("p"), joules("energy_j")
    if limits.threshold is not None:
        rank = joules("rank_j")
        rank = cost if np.isnan(rank).all() else rank
        best = left[int(cheapest_certain(p, rank, limits.threshold)[0])]
        which = "the cheapest" if best.p >= limits.threshold else "none is; the likeliest"
        return best, f"p ≥ {limits.threshold:.2f}: {which}"
    if price:
        return left[int(priced(p, cost, price)[0])], f"most points less {price:.3g} a joule"
    return left[int(most_accurate(p, cost)[0])], "the likeliest to be right"


def allowed_j(limits: Limits, conditions: Conditions) -> float | None:
    """The fewest joules that any limit leaves, one of grams by the intensity; None without any."""
    found = [limits.joules, limits.hourly_left_j]
    if limits.grams is not None and (gram := conditions.grams(1.0)):
        found.append(limits.grams / gram)
    return min((joules for joules in found if joules is not None), default=None)


def after(limits: Limits, conditions: Conditions, *, spent_j: float, spent_s: float) -> Limits:
    """What the limits leave for a further stage."""
    spent = conditions.taken(spent_j, spent_s)
    left: dict[str, Any] = {
        name: max(limit - (spent[name] or 0.0), 0.0)
        for name in _TAKEN
        if (limit := getattr(limits, name)) is not None
    }
    return replace(limits, **left)


def escalate(
    p_now: float,
    estimates: Sequence[Estimate],
    limits: Limits,
    conditions: Conditions,
    tried: Collection[str] = (),
) -> Choice | None:
    """A further stage, where Δp / ΔJ is above the price and it keeps what is left of the `limits`.

    `p_now`: that the answer at hand is right, by what its own stage has shown. None: it stands. `estimates`:
    of all arms, as in `choose`. At a price an arm of unknown joules is worth nothing.
    """
    if limits.threshold is not None and p_now >= limits.threshold:
        return None
    price = limits.price * conditions.pressure
    worth = [
        (POINTS * (one.p - p_now) - price * (one.energy_j or 0.0), number, one)
        for number, one in enumerate(tightened(estimates, conditions.pressure)[0])
        if one.arm not in tried
        and one.p - p_now > LEAST_GAIN
        and over_limit(one, limits, conditions) is None
        and not (price and one.energy_j is None)
    ]
    if not worth or (best := max(worth, key=lambda entry: entry[:2]))[0] <= 0:
        return None
    one = best[2]
    why = f"p = {one.p:.2f}, of the answer at hand {p_now:.2f}"
    return Choice(one.arm, one.budget_tokens, why, p=one.p)
