"""What a router has to beat, beside every fixed arm and a random one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.policy import Array


@dataclass(frozen=True)
class CategoryMean:
    """Each arm's share of right answers in the query's category; its overall share in one not seen."""

    overall: Array
    by_category: dict[str | None, Array]

    @classmethod
    def fit(cls, categories: Sequence[str | None], correct: Array) -> "CategoryMean":
        """correct (N, A). A category counts as much as its questions, beside ten of the overall share."""
        overall, names = np.nanmean(correct, axis=0), np.array(categories, dtype=object)
        by_category = {}
        for name in dict.fromkeys(categories):
            rows = correct[names == name]
            seen = (~np.isnan(rows)).sum(0)
            by_category[name] = (np.nansum(rows, axis=0) + 10 * overall) / (seen + 10)
        return cls(overall, by_category)

    def predict(self, categories: Sequence[str | None]) -> Array:
        """(N, A)."""
        return np.array([self.by_category.get(name, self.overall) for name in categories])


_SMALL = ("humanities", "natural sciences", "economics")
_LARGE = ("math", "engineering", "computer science")


def paper_arm(
    category: str | None, *, small: str, large: str, cot: str | None = None, critical: bool = False
) -> str | None:
    """Section 5 of the paper, by the category's name; None where it has no rule (Health, Sociology, others).

    `cot`: the arm of accuracy-critical Math, where the paper keeps chains of thought as an option.
    """
    name = (category or "").lower().replace("_", " ")
    if name == "math" and critical and cot is not None:
        return cot
    return small if name in _SMALL else large if name in _LARGE else None
