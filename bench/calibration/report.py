"""What a calibration found, as a table."""

from collections.abc import Sequence

from bench.calibration.fit import Finding
from bench.tables import markdown
from engine.stop.rule import POINTS, Axes, StoppingRule

_NAMES = ("stability", "distinct", "size", "surprisal", "worst", "confidence")


def findings_table(findings: Sequence[Finding], rule: StoppingRule) -> str:
    """A row for each category, joules to three digits."""
    header = (
        *("category", "runs", "direct", "full", "J direct", "J full", "E* (J)", "95 %", "steps"),
        *(
            "regret (pt)",
            "95 %",
            "safe steps",
            "knee (J)",
            "saturating E* (J)",
            "g off by",
            "signals",
            "rule saves",
            "loses (pt)",
        ),
    )
    head = (
        f"{rule.model} {rule.quantization}; joules: {rule.energy_source}; {rule.runs} runs; "
        f"price {rule.price:.4g} accuracy points per joule"
    )
    return head + "\n\n" + markdown(header, [_row(finding, rule.price) for finding in findings])


def _row(found: Finding, price: float) -> list[str]:
    joules, accuracy = found.grid.energy_j.mean(axis=0), found.grid.correct.mean(axis=0)
    last = len(joules) - 1
    return [
        found.category,
        str(len(found.grid.clusters)),
        f"{accuracy[0]:.1%}",
        f"{accuracy[-1]:.1%}",
        f"{joules[0]:.3g}",
        f"{joules[-1]:.3g}",
        f"{found.best_j:.3g}",
        span(found.best_interval_j, "{:.3g}"),
        _steps(found.best_budget, last),
        f"{POINTS * found.regret:.2f}",
        span(found.regret_interval, "{:.2f}", POINTS),
        _steps(found.safe_budget, last),
        f"{found.hull.energy_j[found.hull.knee()]:.3g}",
        "" if found.saturating is None else f"{found.saturating.best_j(price / POINTS):.3g}",
        "" if found.g_error is None else f"{POINTS * found.g_error:.1f}",
        signals(found.axes),
        f"{found.saved:.1%}",
        f"{POINTS * found.lost:.2f} ({span(found.lost_interval, '{:.2f}', POINTS)})",
    ]


def _steps(budget: int | None, last: int) -> str:
    return "none" if budget is None else "all" if budget == last else str(budget)


def span(ends: tuple[float, float], form: str, scale: float = 1.0) -> str:
    """An interval in words."""
    return " to ".join(form.format(scale * end) for end in ends)


def signals(axes: Axes) -> str:
    """Which signals a rule looks at."""
    return ", ".join(name for name in _NAMES if getattr(axes, name)) or "checkpoint alone"
