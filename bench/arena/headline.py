"""The README's part of an arena: the arms that matter, and what the default policy has to hold."""

from collections.abc import Sequence

from bench.arena.arms import DIRECT, FULL, MARGINAL
from bench.arena.compare import Arena, Line
from bench.arena.scores import Estimate
from bench.arena.table import ROW_HEADER, row, shown
from bench.tables import markdown
from engine.stop.rule import POINTS

_LEAST_SAVED, _MOST_LOST, _LEAST_CLOSED = 0.4, 0.01, 0.6
_MOST_REGRET, _MOST_PROBES, _MOST_OFF = 0.05, 0.05, 0.03
_SHOWN = ("best fixed steps", "best fixed steps by category", "random steps", "permuted stops")
_NOT_PLAYED = "the rule did not play"


def headline(arenas: Sequence[Arena], source: str) -> str:
    """Of `parts`: all questions first, then the categories."""
    whole, by_category = arenas[0], arenas[1:]
    names = (FULL, DIRECT, *_SHOWN, MARGINAL, "oracle: first stably correct")
    tokens = max(
        (line for line in whole.lines if line.name.startswith("tokens=")),
        key=lambda line: line.score.accuracy - whole.price / POINTS * line.score.energy_j,
        default=None,
    )
    lines = [line for line in whole.lines if line.name in names or line is tokens]
    count = len(whole.grid.clusters)
    parts = [
        f"{count} questions at {whole.price:.4g} accuracy points per joule. Joules: {source}. "
        "Intervals: 95 %, paired by question.",
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
        return [[_NOT_PLAYED, "", ""]]
    score, percent = ours.score, (100.0, ".1f", " %")
    rows = [
        _judged("joules saved", score.saved, percent, "≥ 40 %", score.saved.value >= _LEAST_SAVED),
        _judged(
            "accuracy on full thinking, points",
            score.gained,
            (POINTS, "+.2f", ""),
            "lower bound ≥ −1",
            score.gained.low >= -_MOST_LOST,
        ),
        _judged(
            "points above fixed budgets at equal joules",
            score.at_equal_joules,
            (POINTS, "+.2f", ""),
            "> 0",
            score.at_equal_joules.low > 0,
        ),
        _judged(
            "gap to the oracle closed", score.closed, percent, "≥ 60 %", score.closed.value >= _LEAST_CLOSED
        ),
    ]
    if whole.permuted is not None:
        gain = whole.permuted
        rows.append(
            _judged(
                "utility above its own stops shuffled, points",
                gain,
                (POINTS, "+.2f", ""),
                "> 0",
                gain.low > 0,
            )
        )
    if ours.probes is not None:
        rows.append(_plain("joules in probes", f"{ours.probes:.1%}", "≤ 5 %", ours.probes <= _MOST_PROBES))
    if whole.replay is not None:
        off = whole.replay[0] - 1
        rows.append(
            _plain("joules that a replay foretold", f"{off:+.2%}", "within 3 %", abs(off) <= _MOST_OFF)
        )
    for arena in by_category:
        if arena.verify is not None:
            share = arena.verify.share
            rows.append(
                _plain(
                    f"regret on {arena.category}'s own chain", f"{share:.1%}", "≤ 5 %", share <= _MOST_REGRET
                )
            )
    return rows


def _judged(name: str, found: Estimate, form: tuple[float, str, str], asked: str, held: bool) -> list[str]:
    return _plain(name, shown(found, *form), asked, held)


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
        shown(ours.score.saved, 100, ".1f", " %"),
        shown(ours.score.gained, POINTS, "+.2f"),
        shown(ours.score.at_equal_joules, POINTS, "+.2f"),
    ]


def _line(arena: Arena, name: str) -> Line | None:
    return next((line for line in arena.lines if line.name == name), None)
