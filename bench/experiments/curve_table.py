"""The curves of figures 2 and 3 in words: what straight line and parabola leave, and the quadratic term."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.experiments.fits import Fit, polynomial


@dataclass(frozen=True, slots=True)
class Curve:
    """Both fits of one curve; None with a `reason`. `last`: the largest x, at which the bend is told."""

    line: Fit | None
    parabola: Fit | None
    last: float
    reason: str = ""

    @property
    def bend(self) -> float | None:
        """The quadratic term's part of the parabola at the largest x."""
        if self.parabola is None:
            return None
        quadratic = self.parabola["x²"] * self.last**2
        return quadratic / (self.parabola["1"] + self.parabola["x"] * self.last + quadratic)

    @property
    def bent(self) -> bool | None:
        """Whether the quadratic term's 95 % interval leaves out zero; None without an interval."""
        interval = None if self.parabola is None else self.parabola.interval("x²")
        return None if interval is None else not interval[0] <= 0 <= interval[1]

    def cells(self) -> list[str]:
        """For a table with `HEADER`."""
        if self.line is None or self.parabola is None:
            return [f"not fitted: {self.reason}", "", "", "", ""]
        return [
            shown(self.line, "1"),
            shown(self.line, "x"),
            f"{self.line.error:.1%}",
            f"{shown(self.parabola, 'x²')}{' *' if self.bent else ''}"
            + ("" if self.bend is None else f" ({self.bend:+.1%} at {self.last:g})"),
            f"{self.parabola.error:.1%}",
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "line": None if self.line is None else fit_json(self.line),
            "parabola": None if self.parabola is None else fit_json(self.parabola),
            "bend_at_last": self.bend,
            "bent": self.bent,
            "reason": self.reason or None,
        }


HEADER = ("line: at 0", "per x", "left", "parabola: x² (* not 0 by its 95 % interval)", "left")


def curve(x: Sequence[float], y: Sequence[float]) -> Curve:
    """Both fits; where the points do not allow a parabola, neither."""
    try:
        return Curve(polynomial(x, y, 1), polynomial(x, y, 2), max(x))
    except ValueError as error:
        return Curve(None, None, max(x, default=0.0), str(error))


def shown(fit: Fit, name: str) -> str:
    """A coefficient with the half-width of its 95 % interval."""
    interval = fit.interval(name)
    return f"{fit[name]:.3g}" + ("" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.1g}")


def fit_json(fit: Fit) -> dict[str, object]:
    """A plain object."""
    return {
        "coefficients": dict(zip(fit.names, fit.coefficients, strict=True)),
        "half_widths": None if fit.halves is None else dict(zip(fit.names, fit.halves, strict=True)),
        "relative_rms": fit.error,
        "points": fit.n,
    }
