"""What a study learns from and what it judges by: whole questions, each tested once a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import UsageError
from engine.features import text_features
from engine.outcomes import Table
from router.policy import Array, Picks

PARTS = 5
LEAST = 100  # questions: below, a fifth of them tells nothing


@dataclass(frozen=True)
class Fold:
    """Rows of a table."""

    train: Picks
    test: Picks


def folds(questions: int, seed: int, parts: int = PARTS) -> list[Fold]:
    """`parts` of nearly equal size in random order; each is tested by what the others taught."""
    part = np.random.default_rng(seed).permutation(questions) % parts
    return [Fold(np.flatnonzero(part != here), np.flatnonzero(part == here)) for here in range(parts)]


def halves(rows: Picks, seed: int | tuple[int, ...]) -> tuple[Picks, Picks]:
    """Two halves of some rows, in random order."""
    mixed = np.random.default_rng(seed).permutation(rows)
    return np.sort(mixed[: len(mixed) // 2]), np.sort(mixed[len(mixed) // 2 :])


@dataclass(frozen=True)
class Prepared:
    """Questions that every arm answered, with joules, and their features (Q, F).

    `text_only`: the features are the text's. `left_out`: arms without joules. `dropped`: questions that some
    arm lacks.
    """

    table: Table
    features: Array
    text_only: bool
    left_out: tuple[str, ...]
    dropped: int


def prepared(table: Table) -> Prepared:
    """Raises `UsageError` where fewer than two arms or too few questions remain."""
    kept = [a for a, column in enumerate(table.energy_j.T) if not np.isnan(column).all()]
    left_out = tuple(name for a, name in enumerate(table.arms) if a not in kept)
    whole = of_arms(table, kept)
    full = ~np.isnan(whole.correct + whole.energy_j + whole.new_tokens + whole.prompt_tokens).any(axis=1)
    whole = whole.take(np.flatnonzero(full))
    if len(kept) < 2 or len(whole.questions) < LEAST:
        raise UsageError(
            f"{len(kept)} arms with joules and {len(whole.questions)} questions that all of them answered: "
            f"a comparison needs 2 and {LEAST}"
        )
    features = whole.features
    if features is None:
        pairs = zip(whole.queries, whole.categories, strict=True)
        features = np.stack([text_features(query, category) for query, category in pairs])
    return Prepared(whole, features, whole.features is None, left_out, int((~full).sum()))


def of_arms(table: Table, arms: Sequence[int]) -> Table:
    """The table of some of its arms, in that order."""
    names = ("answers", "correct", "energy_j", "elapsed_s", "prompt_tokens", "new_tokens", "confidence")
    columns = {name: getattr(table, name)[:, list(arms)] for name in names}
    return replace(table, arms=tuple(table.arms[a] for a in arms), **columns)
