"""Rules that learn nothing: every fixed arm, agreement of two, the paper's, the oracle and a thrifty one."""

from itertools import combinations

import numpy as np

from bench.routing.baselines import paper_arm
from bench.routing.played import THRIFTY, Kind, Played, fixed
from engine.predict.outcomes import Table
from router.policy import POINTS, Array, Picks, picked, priced

BOUGHT = 24  # prices of the thrifty oracle
# MMLU-Pro's categories by the paper's clusters; the others are their own, or have no rule.
_CLUSTERS = {
    **dict.fromkeys(("biology", "chemistry", "physics"), "natural sciences"),
    **dict.fromkeys(("history", "law", "philosophy"), "humanities"),
    "business": "economics",
    "grade school": "math",
    # The test bed's: sums and digits are arithmetic, a search is a program's loop, a fact is recalled.
    **dict.fromkeys(("chain", "chain-choice", "verify", "verify-choice"), "math"),
    **dict.fromkeys(("search", "search-choice"), "computer science"),
    **dict.fromkeys(("recall", "recall-choice"), "humanities"),
}


def strongest(table: Table) -> int:
    """The arm that is right most often."""
    return int(np.argmax(table.correct.mean(0)))


def fixed_arms(table: Table) -> Played:
    """Each arm for all questions. Their hull is what mixing arms at random reaches."""
    return fixed("random mix of fixed arms", Kind.FIXED, table.arms, table.correct, table.energy_j)


def agreement(table: Table) -> Played | None:
    """Ask two; where they say the same, accept it, else ask the strongest.

    A knob for each pair of the others; None for fewer than three arms.
    """
    last = strongest(table)
    others = [arm for arm in range(len(table.arms)) if arm != last]
    joules = table.energy_j.mean(0)
    pairs = [sorted(pair, key=lambda arm: joules[arm]) for pair in combinations(others, 2)]
    if not pairs:
        return None
    right, spent = [], []
    for a, b in pairs:
        same = agree(table, a, b)
        right.append(np.where(same, table.correct[:, a], table.correct[:, last]))
        both = table.energy_j[:, a] + table.energy_j[:, b]
        spent.append(both + np.where(same, 0.0, table.energy_j[:, last]))
    names = [f"{table.arms[a]} = {table.arms[b]}, else {table.arms[last]}" for a, b in pairs]
    return fixed("agreement of two", Kind.BASELINE, names, np.stack(right, 1), np.stack(spent, 1))


def agree(table: Table, a: int, b: int) -> Array:
    """(Q,) bool: both answered, and the same."""
    one, other = table.answers[:, a], table.answers[:, b]
    return np.array([said is not None and said == again for said, again in zip(one, other, strict=True)])


def paper(table: Table) -> Played:
    """Section 5's rules with the cheapest and the strongest arm; where it has none, the strongest."""
    small, large = int(np.argmin(table.energy_j.mean(0))), strongest(table)
    names = [
        paper_arm(_CLUSTERS.get(c or "", c), small=table.arms[small], large=table.arms[large])
        for c in table.categories
    ]
    arms = np.array([large if name is None else table.arms.index(name) for name in names])
    return _chosen("the paper's section 5", Kind.BASELINE, table, arms)


def oracle(table: Table) -> Played:
    """The cheapest arm that is right; where none is, the cheapest."""
    price = np.where(table.correct > 0, table.energy_j, np.inf)
    none = ~np.isfinite(price).any(axis=1)
    arms = np.where(none, np.argmin(table.energy_j, axis=1), np.argmin(price, axis=1))
    return _chosen("oracle of each query", Kind.ORACLE, table, arms)


def thrifty(table: Table) -> Played:
    """The oracle where a right answer is worth `POINTS`, and a joule a price: the front of all choices.

    Right answers are bought from the cheapest on: a knob for each of so many shares of those that have to be
    bought, since the cheapest arm is wrong, from all of them to none.
    """
    least = table.energy_j.min(axis=1)
    more = np.where(table.correct > 0, table.energy_j, np.inf).min(axis=1) - least
    bought = more[np.isfinite(more) & (more > 0)]
    at = np.quantile(bought, np.linspace(1, 0, BOUGHT)) if len(bought) else np.array([table.energy_j.max()])
    each = POINTS / np.append(at * 1.001, at[-1] / 2)  # those at the price itself are bought; at last none is
    arms = [priced(table.correct, table.energy_j, price) for price in each]
    right, spent = ([picked(values, some) for some in arms] for values in (table.correct, table.energy_j))
    names = [f"{price:.3g} points/J" for price in each]
    return fixed(THRIFTY, Kind.ORACLE, names, np.stack(right, 1), np.stack(spent, 1))


def _chosen(name: str, kind: Kind, table: Table, arms: Picks) -> Played:
    right, spent = picked(table.correct, arms), picked(table.energy_j, arms)
    return fixed(name, kind, ("",), right[:, None], spent[:, None])
