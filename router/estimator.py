"""What a calibration leaves behind: every arm's chances and costs, the certificate, and one file of arrays.

The file is an npz without pickles, bound to its arms by a digest.
"""

import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import numpy as np

from engine.errors import TokenjouleError
from router.certificate import certified_threshold
from router.energy import CostEstimator
from router.outcomes import Table
from router.performance import Performance, logit
from router.policy import Array

SCHEMA = "tokenjoule.router/1"
TEXT = "text"  # features of the text alone


@dataclass(frozen=True)
class Certificate:
    """P(accuracy of `min-energy` at `threshold` < `target`) ≤ `delta`; nan: no threshold is certified."""

    target: float
    delta: float
    threshold: float


@dataclass(frozen=True)
class Estimator:
    """`features`: where they come from, `TEXT` or what `features.source` says. `fallback`: best fixed arm.

    `stage`: that an answer is right, given what its own stage showed (`evidence`); None where outcomes have
    no confidences. `seconds`: None where they have no times. `accuracy` (A,): of each arm, when calibrated.
    """

    arms: tuple[str, ...]
    digest: str
    features: str
    fallback: str
    performance: Performance
    energy: CostEstimator
    seconds: CostEstimator | None
    stage: Performance | None
    accuracy: Array
    certificate: Certificate | None = None
    schema: str = SCHEMA

    @classmethod
    def fit(
        cls,
        train: Table,
        calibration: Table,
        *,
        digest: str = "",
        features: str = TEXT,
        kind: str = "logistic",
        certify: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> "Estimator":
        """`certify`: (target, delta). Raises `TokenjouleError` for outcomes that teach nothing."""
        known, held = train.features, calibration.features
        if known is None or held is None:
            raise TokenjouleError("the outcomes have no features")
        try:
            performance = Performance.fit(known, train.correct, kind=kind, seed=seed)
        except ValueError as error:
            raise TokenjouleError(str(error)) from error

        def costs(name: str) -> CostEstimator:
            tokens = train.prompt_tokens, train.new_tokens
            fitted = CostEstimator.fit(known, *tokens, getattr(train, name))
            return fitted.calibrated(held, getattr(calibration, name))

        energy, p = costs("energy_j"), performance.predict(held).p
        accuracy, mean_j = np.nanmean(train.correct, axis=0), np.nanmean(train.energy_j, axis=0)
        strongest = np.lexsort((np.nan_to_num(mean_j, nan=np.inf), -accuracy))[0]
        found = cls(
            arms=train.arms,
            digest=digest,
            features=features,
            fallback=train.arms[strongest],
            performance=performance,
            energy=energy,
            seconds=None if np.isnan(train.elapsed_s).all() else costs("elapsed_s"),
            stage=_stage(calibration, p, seed),
            accuracy=accuracy,
        )
        if certify is None:
            return found
        expected = energy.predict(held).expected
        certified = certified_threshold(p, expected, calibration.correct, target=certify[0], delta=certify[1])
        return replace(found, certificate=Certificate(*certify, np.nan if certified is None else certified))

    def after_stage(self, arm: int, p: float, confidence: float | None) -> float:
        """That the arm's answer is right, now that it was given with this confidence."""
        if self.stage is None or confidence is None:
            return p
        given = evidence(np.array([p]), np.array([confidence]), np.array([arm]), len(self.arms))
        return float(self.stage.predict(given).p[0, 0])

    def save(self, path: Path) -> None:
        """In one piece. Raises `TokenjouleError`."""
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "wb") as file:
                np.savez_compressed(file, **_packed(self, ""))
            os.replace(partial, path)
        except OSError as error:
            raise TokenjouleError(f"cannot write the estimator {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> "Estimator":
        """Raises `TokenjouleError` of one line for a file that is none."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
            if str(content.get("schema")) != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            found: Estimator = _unpacked(cls, content, "")
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds
            raise TokenjouleError(f"{path} is no estimator of a router: {error}") from error
        return found


def evidence(p: Array, confidence: Array, arm: Any, arms: int) -> Array:
    """What a finished stage tells of its answer. p, confidence, arm (N,) -> (N, 2 + 2·arms)."""
    of_arm = np.eye(arms)[arm]
    return np.hstack([logit(p)[:, None], confidence[:, None], of_arm, of_arm * confidence[:, None]])


def _stage(table: Table, p: Array, seed: int) -> Performance | None:
    """Fitted on questions that `p` was not, all arms together."""
    rows, arms = np.nonzero(~np.isnan(table.confidence) & ~np.isnan(table.correct))
    if len(rows) < 50:
        return None
    given = evidence(p[rows, arms], table.confidence[rows, arms], arms, len(table.arms))
    return Performance.fit(given, table.correct[rows, arms][:, None], seed=seed)


def _packed(value: Any, prefix: str) -> dict[str, Any]:
    if is_dataclass(value):
        parts = [_packed(getattr(value, f.name), f"{prefix}{f.name}.") for f in fields(value)]
        return {name: array for part in parts for name, array in part.items()}
    return {} if value is None else {prefix.rstrip("."): np.asarray(value)}


def _unpacked(kind: Any, content: dict[str, Any], prefix: str) -> Any:
    """The value of the annotated type `kind`, as `_packed` wrote it. Raises `ValueError`, `KeyError`."""
    inner = get_args(kind)
    if isinstance(kind, UnionType):
        there = any(name.startswith(prefix.rstrip(".")) for name in content)
        return _unpacked(inner[0], content, prefix) if there else None
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        parts = {f.name: _unpacked(kinds[f.name], content, f"{prefix}{f.name}.") for f in fields(kind)}
        made: Any = kind
        return made(**parts)
    array = content[prefix.rstrip(".")]
    if kind in (str, float):
        return kind(array)
    return tuple(map(str, array)) if inner[:1] == (str,) else array
