"""What a probe would do on questions that it was neither fitted nor chosen by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.calibration.bootstrap import paired_interval
from bench.calibration.fit import by_category
from bench.calibration.hidden_fit import Fitted, LinearProbe, ends_right, ends_states
from bench.calibration.log import Entry, Trace
from bench.calibration.replay import at_stops
from bench.calibration.report import span
from bench.tables import markdown
from engine.predict.chances import ece
from engine.predict.texts import numbered
from engine.stop.rule import POINTS, POOLED


@dataclass(frozen=True)
class HeldOut:
    """Of a category's held-out questions. `step_ends`: at `right` of them a forced answer is right.

    `auroc`: how often the probe gives the right one of two the higher probability, ties counting half; None
    where all are right, or none. `ece`: over ten bins of equal mass; None without a step's end. Then what
    stopping at the threshold does: `tokens_saved` of the thinking tokens and `saved` of the joules, as shares
    of full thinking's, `full` and `stopped` accuracy, `lost_interval` of their difference (95 %, paired by
    question).
    """

    category: str
    questions: int
    step_ends: int
    right: float | None
    auroc: float | None
    ece: float | None
    tokens_saved: float
    saved: float
    full: float
    stopped: float
    lost_interval: tuple[float, float]


def held_out(fitted: Fitted) -> list[HeldOut]:
    """All of them first, then each category."""
    parts = {POOLED: fitted.held_out, **by_category(fitted.held_out)}
    return [_of(name, traces, fitted.probe) for name, traces in parts.items()]


def _of(category: str, traces: Sequence[Trace], probe: LinearProbe) -> HeldOut:
    from sklearn.metrics import roc_auc_score

    right, states = ends_right(traces), ends_states(traces, probe.layer)
    p = probe.p(states) if len(right) else np.zeros(0)
    stops = probe.stops(traces)
    full = at_stops(traces, [len(trace.checkpoints) for trace in traces])
    stopped = at_stops(traces, stops)
    pairs = list(zip(traces, stops, strict=True))
    thought = sum(_at(trace, stop).think_tokens for trace, stop in pairs)
    return HeldOut(
        category=category,
        questions=len(traces),
        step_ends=len(right),
        right=float(right.mean()) if len(right) else None,
        auroc=float(roc_auc_score(right, p)) if 0 < right.sum() < len(right) else None,
        ece=ece(p, right) if len(right) else None,
        tokens_saved=1 - thought / sum(trace.end.think_tokens for trace in traces),
        saved=float(1 - stopped.energy_j.sum() / full.energy_j.sum()),
        full=float(full.correct.mean()),
        stopped=float(stopped.correct.mean()),
        lost_interval=paired_interval(
            full.correct - stopped.correct, numbered([trace.end.question for trace in traces])
        ),
    )


def _at(trace: Trace, stop: int) -> Entry:
    return trace.checkpoints[stop] if stop < len(trace.checkpoints) else trace.end


def held_out_table(found: Sequence[HeldOut]) -> str:
    """A row for each category."""
    header = (
        *("category", "questions", "step ends", "right", "AUROC", "ECE", "tokens saved", "joules saved"),
        *("full", "stopped", "loses (pt)"),
    )
    return markdown(header, [_row(each) for each in found])


def _row(found: HeldOut) -> list[str]:
    lost = POINTS * (found.full - found.stopped)
    return [
        found.category,
        str(found.questions),
        str(found.step_ends),
        "" if found.right is None else f"{found.right:.1%}",
        "" if found.auroc is None else f"{found.auroc:.3f}",
        "" if found.ece is None else f"{found.ece:.3f}",
        f"{found.tokens_saved:.1%}",
        f"{found.saved:.1%}",
        f"{found.full:.1%}",
        f"{found.stopped:.1%}",
        f"{lost:.2f} ({span(found.lost_interval, '{:.2f}', POINTS)})",
    ]
