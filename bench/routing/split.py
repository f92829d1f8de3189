"""What a study learns from and what it judges by: whole questions, each tested once a seed.

Questions of equal texts lie on the same side of every split: what one teaches, another must not test.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.predict.features import text_rows
from engine.predict.outcomes import Table
from engine.predict.texts import numbered, shuffled
from router.policy import Array, Picks

PARTS = 5
LEAST = 100  # questions: below, a fifth of them tells nothing


@dataclass(frozen=True)
class Fold:
    """Rows of a table."""

    train: Picks
    test: Picks


Texts = Sequence[Hashable] | NDArray[Any]
Split = Callable[[int], Sequence[Fold]]  # of a seed


def crossed(texts: Texts, parts: int = PARTS) -> Split:
    """`folds` of questions with these texts."""
    return lambda seed: folds(texts, seed, parts)


def frozen(fit: Picks, test: Picks) -> Split:
    """The same questions are tested by what the same ones taught, whatever the seed."""
    return lambda seed: [Fold(fit, test)]


def folds(texts: Texts, seed: int, parts: int = PARTS) -> list[Fold]:
    """`parts` with nearly equally many texts, in random order; each is tested by what the others taught."""
    numbers = numbered(texts)
    part = np.random.default_rng(seed).permutation(numbers.max() + 1)[numbers] % parts
    return [Fold(np.flatnonzero(part != here), np.flatnonzero(part == here)) for here in range(parts)]


def halves(rows: Picks, texts: NDArray[Any], seed: int | tuple[int, ...]) -> tuple[Picks, Picks]:
    """Two halves of some rows of a table, by their texts, at random. `texts`: of all rows of the table."""
    place, count = shuffled(texts[rows], seed)
    return np.sort(rows[place < count // 2]), np.sort(rows[place >= count // 2])


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
    return text_rows(table.queries, table.categories)


def of_arms(table: Table, arms: Sequence[int]) -> Table:
    """The table of some of its arms, in that order."""
    names = ("answers", "correct", "energy_j", "elapsed_s", "prompt_tokens", "new_tokens", "confidence")
    columns = {name: getattr(table, name)[:, list(arms)] for name in names}
    return replace(table, arms=tuple(table.arms[a] for a in arms), **columns)
