r"""The best place to stop noisy checking, where the checker is a known Markov chain.

A line is right or wrong; nobody sees which. The attempt is right with probability p0 = 1 - ε. A pass over a
wrong line writes the right one (FIX c), another wrong one (`rewrite` d, 0 in the generator) or copies it; a
pass over a right line writes a wrong one (BREAK b) or copies it. What is seen is whether the pass changed the
line, which turns the belief p that the line is right into

    same     p(1 - b) / (p(1 - b) + (1 - p)(1 - c - d))
    changed  (1 - p)c / ((1 - p)(c + d) + pb)

Stopping is worth p; a pass costs λe. One more pass before stopping gains (1 - p)c - pb - λe, so the one-step
rule goes on while that is positive: while p < p* = (c - λe) / (c + b). It is optimal where the beliefs that
stop are never left again (the monotone case). With b = 0 that holds: "same" raises p, and "changed" (d = 0)
makes it 1. It then stops at the first change, or after k* passes without one,

    k* = ⌈ ln( (p0 / ε) · x / (1 - x) ) / ln(1 - c) ⌉   with x = λe / c, at least 0.

With b > 0 a change seen from a high belief means a broken line, from which it pays to go on; the option to
repair makes passing on worth a little more than one step shows. `solve` is exact up to `EXACT_PASSES`: the
beliefs that can be reached are a tree of two branches a pass. Beyond, where it is too large, beliefs are
told apart to four digits.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

EXACT_PASSES = 16


@dataclass(frozen=True, slots=True)
class Checker:
    """The chain. `passes`: the most, after which the last line is the answer. Raises `ValueError`."""

    epsilon: float
    fix: float
    break_: float
    passes: int
    rewrite: float = 0.0

    def __post_init__(self) -> None:
        rates = (self.epsilon, self.fix, self.break_, self.rewrite, self.fix + self.rewrite)
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"rates are probabilities, found {self}")

    @property
    def first(self) -> float:
        """Belief in the attempt."""
        return 1 - self.epsilon

    def changes(self, belief: float) -> float:
        """Probability that the next pass changes the line."""
        return belief * self.break_ + (1 - belief) * (self.fix + self.rewrite)

    def after(self, belief: float, *, changed: bool) -> float:
        """The belief after a pass."""
        if changed:
            right, all_ = (1 - belief) * self.fix, self.changes(belief)
        else:
            right, all_ = belief * (1 - self.break_), 1 - self.changes(belief)
        return right / all_ if all_ > 0 else belief

    def gain(self, belief: float) -> float:
        """By how much the next pass raises the belief on average."""
        return (1 - belief) * self.fix - belief * self.break_


def threshold(checker: Checker, cost: float) -> float:
    """p*: the one-step rule stops from here up. `cost`: of a pass, in accuracy (λe)."""
    total = checker.fix + checker.break_
    return (checker.fix - cost) / total if total else 0.0


def passes_without_change(checker: Checker, cost: float) -> int:
    """k*: how many unchanged passes the optimum waits for, b = d = 0. Raises `ValueError` otherwise."""
    if checker.break_ or checker.rewrite:
        raise ValueError("the closed form needs passes that break and rewrite nothing")
    if checker.epsilon == 0 or cost >= checker.epsilon * checker.fix:
        return 0
    if cost <= 0:
        return checker.passes
    x = cost / checker.fix
    if checker.fix == 1 or checker.epsilon == 1:
        return min(1 if checker.fix == 1 else checker.passes, checker.passes)
    waits = math.log(checker.first / checker.epsilon * x / (1 - x)) / math.log(1 - checker.fix)
    return min(max(math.ceil(waits - 1e-12), 0), checker.passes)


@dataclass(frozen=True)
class Optimum:
    """`value`: expected accuracy less passes. `stops(history)`: whether to stop after these passes."""

    checker: Checker
    cost: float
    value: float

    def stops(self, changed: tuple[bool, ...]) -> bool:
        belief = self.checker.first
        for change in changed:
            belief = self.checker.after(belief, changed=change)
        return belief >= _go_on(self.checker, self.cost, belief, len(changed))


def solve(checker: Checker, cost: float) -> Optimum:
    """The optimum over all rules, by backward induction over beliefs."""
    return Optimum(checker, cost, _value(checker, cost, checker.first, 0))


@cache
def _value(checker: Checker, cost: float, belief: float, done: int) -> float:
    return max(belief, _go_on(checker, cost, belief, done))


def _go_on(checker: Checker, cost: float, belief: float, done: int) -> float:
    if done == checker.passes:
        return -math.inf
    changes = checker.changes(belief)
    ahead, digits = 0.0, 12 if checker.passes <= EXACT_PASSES else 4
    for changed, probability in ((True, changes), (False, 1 - changes)):
        if probability > 0:
            following = round(checker.after(belief, changed=changed), digits)
            ahead += probability * _value(checker, cost, following, done + 1)
    return ahead - cost


def one_step_value(checker: Checker, cost: float) -> float:
    """What the one-step rule is worth, exactly."""

    def value(belief: float, done: int) -> float:
        if done == checker.passes or checker.gain(belief) <= cost:
            return belief
        changes = checker.changes(belief)
        ahead = sum(
            probability * value(checker.after(belief, changed=changed), done + 1)
            for changed, probability in ((True, changes), (False, 1 - changes))
            if probability > 0
        )
        return ahead - cost

    return value(checker.first, 0)


def simulate(checker: Checker, rng: random.Random) -> tuple[list[bool], list[bool]]:
    """(whether each line is right, whether each pass changed it) of a whole run."""
    right = [rng.random() >= checker.epsilon]
    changed = []
    for _ in range(checker.passes):
        draw = rng.random()
        if right[-1]:
            broken = draw < checker.break_
            right.append(not broken)
            changed.append(broken)
        else:
            right.append(draw < checker.fix)
            changed.append(draw < checker.fix + checker.rewrite)
    return right, changed


def measured(runs: list[tuple[list[bool], list[bool]]]) -> Checker:
    """The chain that these runs of a model followed: (right, changed) of each, as `simulate` gives them.

    Raises `ValueError` where no pass over a right line, or none over a wrong one, was seen.
    """
    steps = [(right[i], right[i + 1], changed[i]) for right, changed in runs for i in range(len(changed))]
    over_right = [after for before, after, _ in steps if before]
    over_wrong = [(after, change) for before, after, change in steps if not before]
    if not over_right or not over_wrong:
        raise ValueError("the rates need passes over right and over wrong lines")
    return Checker(
        epsilon=sum(not right[0] for right, _ in runs) / len(runs),
        fix=sum(after for after, _ in over_wrong) / len(over_wrong),
        break_=over_right.count(False) / len(over_right),
        passes=max(len(changed) for _, changed in runs),
        rewrite=sum(change and not after for after, change in over_wrong) / len(over_wrong),
    )
