"""Paired bootstrap over questions: intervals of means, of ratios and of changes, from the same resamples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
_AT_ONCE = 100  # resamples that are counted together: 10 MB for 12 k questions


@dataclass(frozen=True, slots=True)
class Interval:
    """`value` with the ends of its 95 % percentile interval; None where nothing can be said.

    `low` and `high` are None below two questions.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def between(value: float, resampled: np.ndarray) -> Interval:
    """A value with its percentile interval, none where more than 5 % of `resampled` (resamples,) are not
    finite.
    """
    if not np.isfinite(value):
        return Interval(None)
    found = resampled[np.isfinite(resampled)]
    if not len(found) or len(found) < CONFIDENCE * len(resampled):
        return Interval(value)
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


class Resampled:
    """Index sets of one set of questions: the same for every statistic, so that differences are paired."""

    def __init__(self, questions: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.questions = questions
        rng = np.random.default_rng(seed)
        # (resamples, questions); int32 keeps 14 k questions × 2,000 within 112 MB.
        self._sets = (
            rng.integers(0, questions, (resamples, questions), dtype=np.int32) if questions > 1 else None
        )

    def interval(
        self, statistic: Callable[[Sequence[np.ndarray]], np.ndarray], *columns: Sequence[float]
    ) -> Interval:
        """Of `statistic`, which takes sums over questions of each column, (…,) float64, and gives (…,).

        It may give NaN or infinity where it is not defined; resamples in which that happens are left out, and
        the interval is None where that is more than 5 % of them.
        """
        arrays = [np.asarray(column, dtype=np.float64) for column in columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic([array.sum() for array in arrays]))
            if not np.isfinite(value):
                return Interval(None)
            if self._sets is None:
                return Interval(value)
            found = statistic([self._sums(array) for array in arrays])
        return between(value, found)

    def means(self, columns: np.ndarray) -> np.ndarray:
        """Of each column in each resample. columns (questions, C) -> (resamples, C); (0, C) below two
        questions.
        """
        if self._sets is None:
            return np.empty((0, columns.shape[1]))
        found = []
        for some in np.array_split(self._sets, -(-len(self._sets) // _AT_ONCE)):
            often = np.stack([np.bincount(chosen, minlength=self.questions) for chosen in some])
            found.append(often @ columns / self.questions)
        return np.concatenate(found)

    def _sums(self, array: np.ndarray) -> np.ndarray:
        assert self._sets is not None
        return np.array([array[chosen].sum() for chosen in self._sets])
