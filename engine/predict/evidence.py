"""That an answer is right, given what its own stage showed: how likely it was before, and its confidence."""

import numpy as np
from numpy.typing import NDArray

from engine.predict.chances import Array, logit
from engine.predict.outcomes import Table
from engine.predict.performance import FOLDS, Performance

_LEAST = 50  # finished stages, for what their confidences tell


def evidence(p: Array, confidence: Array, arm: NDArray[np.int_], arms: int) -> Array:
    """What a finished stage tells of its answer. p, confidence, arm (N,) -> (N, 2 + 2·arms)."""
    of_arm = np.eye(arms)[arm]
    return np.hstack([logit(p)[:, None], confidence[:, None], of_arm, of_arm * confidence[:, None]])


def stage_performance(table: Table, p: Array, seed: int) -> Performance | None:
    """Fitted on questions that `p` (Q, A) was not, all arms together; None where too few tell."""
    rows, arms = np.nonzero(~np.isnan(table.confidence) & ~np.isnan(table.correct))
    texts = table.queries[rows]
    if len(rows) < _LEAST or len(set(texts)) < 2 * FOLDS:
        return None
    given = evidence(p[rows, arms], table.confidence[rows, arms], arms, len(table.arms))
    return Performance.fit(given, table.correct[rows, arms][:, None], kind="logistic", seed=seed, texts=texts)
