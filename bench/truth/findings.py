"""What a study of single-shot joules finds: figures beside truths, and which of them agree."""

from dataclasses import dataclass, field

import numpy as np

from bench.curve_requests import Size
from bench.truth.repeats import Power, Truth

_SURE = 1.96


@dataclass(frozen=True, slots=True)
class Figure:
    """J by the ledger's model with its standard deviation, gain left out; None and why, where it refused."""

    energy_j: float | None
    sd_j: float
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`check`: comparison, additivity, differencing or sham. `what`: prefill, decode, …"""

    check: str
    what: str
    size: Size
    single: Figure
    truth: Truth

    @property
    def difference_j(self) -> float | None:
        return None if self.single.energy_j is None else self.single.energy_j - self.truth.energy_j

    @property
    def power_off(self) -> float | None:
        """How far the single figure is off at its own seconds, as a share: the power's error alone.

        A request that takes longer than the repeated ones is off in joules for that reason, too.
        """
        expected_j = self.truth.power.watts * self.single.seconds
        return self.single.energy_j / expected_j - 1 if self.single.energy_j is not None else None

    @property
    def power_outside(self) -> bool | None:
        """Whether the power alone is off: at the single request's own seconds, which the clock measured."""
        if self.single.energy_j is None:
            return None
        expected_j = self.truth.power.watts * self.single.seconds
        half_j = np.hypot(_SURE * self.single.sd_j, self.truth.power.half_w * self.single.seconds)
        return bool(abs(self.single.energy_j - expected_j) > half_j)

    @property
    def half_j(self) -> float:
        """Of the 95 % interval of the difference."""
        return float(np.hypot(_SURE * self.single.sd_j, self.truth.half_j))

    @property
    def outside(self) -> bool | None:
        """None where there is no single figure."""
        return None if self.difference_j is None else abs(self.difference_j) > self.half_j


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Mean error of the prefills, as a share of the truth, with the right labels and with shuffled ones.

    `shuffled` None: the fit refused those labels, `reason`.
    """

    right: float
    shuffled: float | None
    reason: str = ""

    @property
    def ratio(self) -> float:
        """The right labels' error over the shuffled ones'; 0 where those were refused."""
        if self.shuffled is None:
            return 0.0
        return self.right / self.shuffled if self.shuffled > 0 else 1.0

    @property
    def told_apart(self) -> bool:
        """Whether wrong labels are clearly worse: twice the error, or refused."""
        return self.ratio <= 0.5


@dataclass(slots=True)
class Study:
    """Everything that was found; `cut` says what the time did not allow."""

    comparisons: list[Comparison] = field(default_factory=list)
    shuffle: Shuffle | None = None
    idle: Power | None = None
    gaps: Power | None = None
    cut: list[str] = field(default_factory=list)

    def of(self, check: str) -> list[Comparison]:
        """Those that have a figure."""
        return [c for c in self.comparisons if c.check == check and c.outside is not None]
