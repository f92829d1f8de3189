"""What a calibration leaves behind: every arm's chances and costs, the certificate, and one file of arrays.

The file is bound to its arms by a digest.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.arrays import load_arrays, save_arrays
from engine.errors import TokenjouleError
from engine.predict.evidence import Evidence
from engine.predict.outcomes import Table
from engine.predict.performance import Performance
from engine.predict.request_costs import CostEstimator
from engine.predict.texts import firsts
from router.certificate import certified_threshold
from router.policy import Array, Estimate, dear

SCHEMA = "tokenjoule.router/4"
TEXT = "text"  # features of the text alone


@dataclass(frozen=True)
class Certificate:
    """P(accuracy of `min-energy` at `threshold` < `target`) ≤ `delta`; nan: no threshold is certified.

    `scale` (A,): of the fitted costs, as the training questions alone tell it. What is certified is a rule,
    so what it ranks arms by stays, whatever other questions and finished requests teach.
    """

    target: float
    delta: float
    threshold: float
    scale: Array


@dataclass(frozen=True)
class Estimator:
    """`features`: where they come from, `TEXT` or what `features.source` says. `fallback`: best fixed arm.

    `stage`: that every arm is right, given what one has answered; None where outcomes have no confidences.
    `seconds`: None where they have no times.
    """

    arms: tuple[str, ...]
    digest: str
    features: str
    fallback: str
    performance: Performance
    energy: CostEstimator
    seconds: CostEstimator | None = None
    stage: Evidence | None = None
    certificate: Certificate | None = None

    @classmethod
    def fit(
        cls,
        train: Table,
        calibration: Table,
        *,
        digest: str = "",
        features: str = TEXT,
        kind: str = "both",
        certify: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> "Estimator":
        """`certify`: (target, delta). Raises `TokenjouleError` for outcomes that teach nothing."""
        known, held = train.features, calibration.features
        if known is None or held is None:
            raise TokenjouleError("the outcomes have no features")

        def costs(name: str) -> tuple[CostEstimator, CostEstimator]:
            """As train teaches it; with the spread of calibration."""
            tokens = train.prompt_tokens, train.new_tokens
            fitted = CostEstimator.fit(known, *tokens, getattr(train, name))
            return fitted, fitted.calibrated(held, getattr(calibration, name))

        try:
            performance = Performance.fit(known, train.correct, kind=kind, seed=seed, texts=train.queries)
        except ValueError as error:
            raise TokenjouleError(str(error)) from error
        (taught, energy), p = costs("energy_j"), performance.predict(held).p
        accuracy, mean_j = np.nanmean(train.correct, axis=0), dear(train.energy_j).mean(axis=0)
        strongest = np.lexsort((mean_j, -accuracy))[0]
        found = cls(
            arms=train.arms,
            digest=digest,
            features=features,
            fallback=train.arms[strongest],
            performance=performance,
            energy=energy,
            seconds=None if np.isnan(train.elapsed_s).all() else costs("elapsed_s")[1],
            stage=Evidence.fit(calibration, p),
        )
        if certify is None:
            return found
        if np.isnan(calibration.correct).any():
            raise TokenjouleError("a certificate needs to know of every answer whether it is right")
        found = replace(found, certificate=Certificate(*certify, np.nan, taught.spread[0]))
        rank, rows = found.rank(held), firsts(calibration.queries)
        assert rank is not None and found.certificate is not None
        target, delta = certify
        right = calibration.correct[rows]
        certified = certified_threshold(p[rows], rank[rows], right, target=target, delta=delta)
        threshold = np.nan if certified is None else certified
        return replace(found, certificate=replace(found.certificate, threshold=threshold))

    def rank(self, features: Array) -> Array | None:
        """(N, A): joules that the certified rule ranks arms by; None without a certificate."""
        return None if self.certificate is None else self.energy.point(features, {}) * self.certificate.scale

    def told(self, believed: list[Estimate], arm: str, p: float, confidence: float | None) -> list[Estimate]:
        """What is believed now that `arm`, of which `p` was believed, has answered with this confidence."""
        now = {**{one.arm: one.p for one in believed}, arm: p}
        if self.stage is not None and confidence is not None:
            before, at = np.array([[now[name] for name in self.arms]]), self.arms.index(arm)
            now = dict(
                zip(self.arms, self.stage(at, before, np.array([confidence]))[0].tolist(), strict=True)
            )
        return [replace(one, p=now[one.arm]) for one in believed]

    def save(self, path: Path) -> None:
        """Raises `TokenjouleError`."""
        save_arrays(path, self, SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "Estimator":
        """Raises `TokenjouleError` of one line for a file that is none."""
        return load_arrays(path, cls, SCHEMA)
