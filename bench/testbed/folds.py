"""Which questions a model may be trained on: one in ten never is. A property of the question's text alone."""

import hashlib

FOLDS = 100
TRAINING = range(0, 90)
# The held-out folds are shared out once more, so that no core of one split comes up in another. Facts to
# recall have no fold: the same ones are trained on and asked in every split, often in the same words.
DEVELOPMENT, CALIBRATION, TEST = range(90, 92), range(92, 95), range(95, 100)
HELD_OUT = range(90, 100)


def fold(core: str) -> int:
    """0..99, by a hash of the question without its options."""
    return int.from_bytes(hashlib.sha256(core.encode()).digest()[:8], "big") % FOLDS
