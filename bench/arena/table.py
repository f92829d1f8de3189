"""The arena as tables."""

import math
from collections.abc import Sequence

from bench.arena.compare import Arena, Line
from bench.arena.scores import Estimate
from bench.tables import markdown
from engine.stop.rule import POINTS

ROW_HEADER = (
    *("arm", "accuracy", "J", "saved", "points gained on full", "points at equal joules"),
    *("joules saved at equal accuracy", "gap closed", "probes", "tokens", "ms", "ledger J"),
)


def tables(arenas: Sequence[Arena], source: str) -> str:
    """One for all questions and one for each category."""
    return "\n\n".join([f"Joules: {source}. Intervals: 95 %.", *map(_table, arenas)])


def _table(arena: Arena) -> str:
    head = f"### {arena.category}: {len(arena.grid.clusters)} questions, {arena.price:.4g} points per joule"
    return "\n\n".join([head, markdown(ROW_HEADER, map(row, arena.lines)), *findings(arena)])


def findings(arena: Arena) -> list[str]:
    """What is said of the rule beside its row."""
    found = []
    for name, estimate in (
        ("the best fixed budget", arena.over_fixed),
        ("its own stops shuffled", arena.permuted),
        ("its own stops shuffled within each category", arena.permuted_within),
    ):
        if estimate is not None:
            found.append(
                f"Marginal value over {name}, in points of utility: {shown(estimate, POINTS, '+z.2f')}."
            )
    if arena.replay is not None:
        ratio, same = arena.replay
        found.append(f"Replayed from the log: {ratio:.4f} of its joules, {same:.1%} of its stops.")
    if arena.verify is not None:
        chain = arena.verify.checker
        found.append(
            f"The model's own chain: ε {chain.epsilon:.3f}, fix {chain.fix:.3f}, break {chain.break_:.3f}, "
            f"another wrong line {chain.rewrite:.3f}. The optimum of rules that see only whether a line "
            f"changed is worth {arena.verify.optimum:.4f}, the rule {arena.verify.own:.4f}: regret "
            f"{arena.verify.share:.1%}."
        )
    return found


def row(line: Line) -> list[str]:
    """Of an arm, under `ROW_HEADER`."""
    score = line.score
    return [
        line.name,
        f"{score.accuracy:.1%}",
        f"{score.energy_j:.3g}",
        shown(score.saved, 100, "z.1f", " %"),
        shown(score.gained, POINTS, "+z.2f"),
        shown(score.at_equal_joules, POINTS, "+z.2f"),
        shown(score.at_equal_accuracy, 100, "z.1f", " %"),
        shown(score.closed, 100, "z.0f", " %"),
        "from the log" if line.probes is None else f"{line.probes:.1%}",
        "" if line.tokens is None else f"{line.tokens:.1f}",
        "" if line.elapsed_s is None else f"{1e3 * line.elapsed_s:.1f}",
        "" if line.ledger_j is None else f"{line.ledger_j:.3g}",
    ]


def shown(estimate: Estimate, scale: float, form: str, unit: str = "") -> str:
    """With its interval; empty where it has no meaning."""
    if math.isnan(estimate.value):
        return ""
    value, low, high = (scale * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:{form}}{unit} ({low:{form}} to {high:{form}})"
