"""Features on one scale, and few of them: what estimators learn from."""

from dataclasses import dataclass

import numpy as np

from engine.predict.features import PLAIN, Array

COMPONENTS = 64  # dimensions that the features behind the plain ones get
_FAR = 1.5  # times the distance that all but one in 200 training questions keep


@dataclass(frozen=True)
class Projection:
    """Standardised features; those beyond `PLAIN` by principal components where there are many.

    mean, scale (F,); components (F - PLAIN, COMPONENTS), None where F is small. `reach`: of what is inside.
    """

    mean: Array
    scale: Array
    reach: float
    components: Array | None = None

    @classmethod
    def fit(cls, features: Array) -> "Projection":
        mean, scale = features.mean(0), features.std(0)
        scale[scale < 1e-9] = 1.0
        z, components = (features - mean) / scale, None
        if features.shape[1] > PLAIN + COMPONENTS:
            values, vectors = np.linalg.eigh(np.cov(z[:, PLAIN:].T))
            # By the first one's size, not each by its own: so the penalty can drop the small ones, and on
            # GSM8K hashed words hurt where all were scaled to 1.
            components = vectors[:, -COMPONENTS:] / np.sqrt(max(values[-1], 1e-6))
        return cls(mean, scale, float(np.quantile(np.linalg.norm(z, axis=1), 0.995)) * _FAR, components)

    def __call__(self, features: Array) -> Array:
        """(N, F) -> (N, D)."""
        z = (features - self.mean) / self.scale
        return z if self.components is None else np.hstack([z[:, :PLAIN], z[:, PLAIN:] @ self.components])

    def outside(self, features: Array) -> Array:
        """(N,) bool: further from the training questions' mean than they are, or not finite."""
        distance = np.linalg.norm((features - self.mean) / self.scale, axis=1)
        return ~(distance <= self.reach)
