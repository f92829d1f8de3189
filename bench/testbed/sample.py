"""Draws questions and problems of any category."""

import random

from bench.testbed import chain, recall, search, verify
from bench.testbed.folds import HELD_OUT
from bench.testbed.problem import Family, Problem
from bench.testbed.question import CATEGORIES, CHOICE, Question

FAMILY = {
    "chain": Family(chain.sample, chain.OPERATIONS, chain.MARK),
    "verify": Family(verify.sample, range(1, 2), verify.MARK),
    "search": Family(search.sample, search.DIGIT_COUNTS, search.MARK),
    "recall": Family(recall.sample, recall.BANDS, recall.MARK),
}
# How often an evaluation asks each category: all alike.
MIX = dict.fromkeys(CATEGORIES, 1)


def family_of(category: str) -> Family:
    """Raises `ValueError` naming the categories where there is none of that name."""
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; there are {', '.join(CATEGORIES)}")
    return FAMILY[category.removesuffix(CHOICE)]


def problem(
    category: str, rng: random.Random, *, folds: range = HELD_OUT, difficulty: int | None = None
) -> Problem:
    """A problem of a category from some folds, by default from those that no model was trained on."""
    return family_of(category).sample(
        rng, folds=folds, choice=category.endswith(CHOICE), difficulty=difficulty
    )


def numbered(category: str, seed: int, *, folds: range = HELD_OUT, difficulty: int | None = None) -> Question:
    """The question of that number: the same one in every process and on every machine."""
    drawn = problem(category, random.Random(f"{category} {seed}"), folds=folds, difficulty=difficulty)
    return Question(drawn.prompt, drawn.answer, category, drawn.difficulty, seed)


def question(category: str, rng: random.Random) -> Question:
    """A held-out question of a category, drawn by `rng`."""
    return numbered(category, rng.randrange(2**32))


def mixed(rng: random.Random, mix: dict[str, int] | None = None) -> Question:
    """A held-out question of a category drawn from a mix (by default `MIX`)."""
    weights = MIX if mix is None else mix
    return question(rng.choices(list(weights), list(weights.values()))[0], rng)
