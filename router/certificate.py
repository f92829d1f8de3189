"""A threshold whose accuracy is certified: a promise for finite samples.

Fixed-sequence testing: thresholds are tried from the strictest on and the first that fails ends it, so all
tests together err with probability ≤ delta and no correction is due. That holds for probabilities `p` that
were fitted on other questions.
"""

import numpy as np

from engine.predict.chances import lower_bound
from router.policy import Array, cheapest_certain, picked

THRESHOLDS = tuple(round(1 - 0.01 * step, 2) for step in range(100))  # 1.00, 0.99, … 0.01


def certified_threshold(
    p: Array, cost: Array, correct: Array, *, target: float, delta: float
) -> float | None:
    """The loosest threshold of `cheapest_certain` that is certified: P(its accuracy < target) ≤ delta.

    p, cost, correct (N, A), of questions that `p` was not fitted on. None where not even the strictest is.
    """
    right = [picked(correct, cheapest_certain(p, cost, threshold)).sum() for threshold in THRESHOLDS]
    certain = lower_bound(right, len(p), delta) >= target
    count = int(np.cumprod(certain).sum())  # before the first that fails
    return THRESHOLDS[count - 1] if count else None
