"""What a study learns from and what it judges by: whole questions, each tested once a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import UsageError
from engine.predict.features import text_features
from engine.predict.outcomes import Table
from router.policy import Array, Picks

PARTS = 5
LEAST = 100  # questions: below, a fifth of them tells nothing


@dataclass(frozen=True)
class Fold:
    """Rows of a table."""

    train: Picks
    test: Picks


Split = Callable[[int], Sequence[Fold]]  # of a seed


def crossed(questions: int, parts: int = PARTS) -> Split:
    """`folds` of so many questions."""
    return lambda seed: folds(questions, seed, parts)


def frozen(fit: Picks, test: Picks) -> Split:
    """The same questions are tested by what the same ones taught, whatever the seed."""
    return lambda seed: [Fold(fit, test)]


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
    arm lacks. `read_j` (Q,): joules of reading a question for its features, and of deciding by them.
    `spared_j` (Q, A): of an arm's, what it is spared where it goes on from that reading.
    """

    table: Table
    features: Array
    text_only: bool
    left_out: tuple[str, ...]
    dropped: int
    read_j: Array
    spared_j: Array

    def take(self, rows: Picks) -> "Prepared":
        """These questions, in this order."""
        return replace(
            self,
            table=self.table.take(rows),
            features=self.features[rows],
            read_j=self.read_j[rows],
            spared_j=self.spared_j[rows],
        )

    @property
    def spared(self) -> "Prepared":
        """As a rule finds it that has read its questions, and so pays `read_j`."""
        spent = replace(self.table, energy_j=self.table.energy_j - self.spared_j)
        return replace(self, table=spent, spared_j=np.zeros_like(self.spared_j))

    @property
    def unread(self) -> "Prepared":
        """As a rule finds it that knows no more than the text, and pays nothing for it."""
        if self.text_only:
            return self
        return replace(self, features=_of_text(self.table), text_only=True, read_j=np.zeros_like(self.read_j))


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
        features = _of_text(whole)
    nothing = np.zeros(len(features)), np.zeros_like(whole.energy_j)
    return Prepared(whole, features, whole.features is None, left_out, int((~full).sum()), *nothing)


def _of_text(table: Table) -> Array:
    pairs = zip(table.queries, table.categories, strict=True)
    return np.stack([text_features(query, category) for query, category in pairs])


def of_arms(table: Table, arms: Sequence[int]) -> Table:
    """The table of some of its arms, in that order."""
    names = ("answers", "correct", "energy_j", "elapsed_s", "prompt_tokens", "new_tokens", "confidence")
    columns = {name: getattr(table, name)[:, list(arms)] for name in names}
    return replace(table, arms=tuple(table.arms[a] for a in arms), **columns)
