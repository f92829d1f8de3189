"""A document's part of an arena: what played and the controls, and what the default policy has to hold.

Shares of joules and of the gap are asked of the value itself, all else of the end of its interval.
"""

from collections.abc import Sequence

from bench.arena.arms import FULL, MARGINAL
from bench.arena.compare import Arena, Line
from bench.arena.scores import Estimate
from bench.arena.table import ROW_HEADER, row, shown
from bench.tables import markdown
from engine.stop.rule import POINTS

_LEAST_SAVED, _MOST_LOST, _LEAST_CLOSED = 0.4, 0.01, 0.6
_MOST_REGRET, _MOST_PROBES, _MOST_OFF = 0.05, 0.05, 0.03
_CONTROLS = (
    *("best fixed steps", "best fixed steps by category", "random steps", "permuted stops"),
    *("permuted stops within category", "oracle: first stably correct", "oracle: first correct"),
)
_NOT_JUDGED = "not judged"


def headline(arenas: Sequence[Arena], setting: tuple[str, str, str, str]) -> str:
    """Of `parts`: all questions first, then the categories. `setting`: as `compare.setting_of` tells it."""
    model, quantization, source, split = setting
    whole, by_category = arenas[0], arenas[1:]
    lines = [line for line in whole.lines if line.played is not None or line.name in _CONTROLS]
    parts = [
        f"{model} (weights {quantization}), {len(whole.grid.clusters)} questions of the {split} split, at "
        f"{whole.price:.4g} accuracy points per joule. Joules: {source}. Intervals: 95 %, paired by "
        "question. Best budgets and oracles are chosen in hindsight.",
        markdown(ROW_HEADER, map(row, lines)),
        markdown(("the default policy", "found", "asked"), _held(whole, by_category)),
    ]
    if by_category:
        header = ("category", "full", "default", "saved", "points gained on full", "at equal joules")
        parts.append(markdown(header, [_category(arena) for arena in by_category]))
    return "\n\n".join(parts) + "\n"


def _held(whole: Arena, by_category: Sequence[Arena]) -> list[list[str]]:
    """Name, figure and verdict of each thing asked."""
    ours = _line(whole, MARGINAL)
    if ours is None:
        return [["the rule did not play", "", _NOT_JUDGED]]
    score, closed = ours.score, ours.score.closed
    rows = [
        _asked("joules saved", score.saved, "≥ 40 %", score.saved.value >= _LEAST_SAVED),
        _asked("points gained on full thinking", score.gained, "≥ −1", score.gained.low >= -_MOST_LOST),
        _above("points above token budgets as played, at equal joules", whole.over_tokens),
        _above("points above step budgets, at equal joules", score.at_equal_joules),
        _above("utility above its own stops shuffled, points", whole.permuted),
        _above("the same, shuffled within each category", whole.permuted_within),
        _asked("gap to first stably correct closed", closed, "≥ 60 %", closed.value >= _LEAST_CLOSED),
    ]
    if ours.probes is not None:
        rows.append(_plain("joules in probes", f"{ours.probes:.1%}", "≤ 5 %", ours.probes <= _MOST_PROBES))
    if whole.replay is None:
        rows.append(["joules that a replay foretells", "", _NOT_JUDGED])
    else:
        off = whole.replay[0] - 1
        rows.append(
            _plain("joules that a replay foretells", f"{off:+.2%}", "within 3 %", abs(off) <= _MOST_OFF)
        )
    for arena in by_category or [whole]:
        if arena.verify is not None:
            share = arena.verify.share
            name = f"{arena.category}: regret beside the optimum that sees only whether a line changed"
            rows.append(_plain(name, f"{share:.1%}", "≤ 5 %", share <= _MOST_REGRET))
    return rows


def _above(name: str, found: Estimate | None) -> list[str]:
    if found is None or found.value != found.value:
        return [name, "", _NOT_JUDGED]
    return _asked(name, found, "> 0", found.low > 0)


def _asked(name: str, found: Estimate, asked: str, held: bool) -> list[str]:
    """Shares in percent, accuracies in points."""
    text = shown(found, 100, "z.1f", " %") if asked.endswith("%") else shown(found, POINTS, "+z.2f")
    return _plain(name, text, asked, held)


def _plain(name: str, found: str, asked: str, held: bool) -> list[str]:
    return [name, found, f"{asked}: {'holds' if held else 'MISSED'}"]


def _category(arena: Arena) -> list[str]:
    full, ours = _line(arena, FULL), _line(arena, MARGINAL)
    if full is None or ours is None:
        return [arena.category, *[""] * 5]
    return [
        arena.category,
        f"{full.score.accuracy:.1%}, {full.score.energy_j:.3g} J",
        f"{ours.score.accuracy:.1%}, {ours.score.energy_j:.3g} J",
        shown(ours.score.saved, 100, "z.1f", " %"),
        shown(ours.score.gained, POINTS, "+z.2f"),
        shown(ours.score.at_equal_joules, POINTS, "+z.2f"),
    ]


def _line(arena: Arena, name: str) -> Line | None:
    return next((line for line in arena.lines if line.name == name), None)
