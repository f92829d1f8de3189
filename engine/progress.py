"""The answer on stdout as it streams; live joules and the summary on stderr.

On a terminal the joules are a line that is redrawn below the text. Where stderr is a file or a pipe, a plain
line comes every second instead.
"""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from engine.energy.curve import MOST_OFF, CurveKey, OperatingCurve
from engine.energy.report import EnergyReport
from engine.engine import Engine
from engine.profile import StageTime
from engine.result import Budget, Generation, format_j
from engine.schemes import NONE
from engine.steps import Step, StopReason

_REDRAW_S, _LINE_S = 0.1, 1.0
_Z95 = 1.96


def announce(engine: Engine) -> None:
    """Which model, device and energy source; a source that measures nothing is said to be one, loudly."""
    origin, meter = engine.origin, engine.poller.meter
    shape = ", random weights: shape only" if origin.card.shape_only else ""
    packed = "" if origin.card.quantization == NONE else f"{origin.card.quantization} weights, "
    print(
        f"{origin.card.id}: {origin.card.architecture}, {origin.card.parameters / 1e6:.1f} M parameters, "
        f"{packed}{origin.card.dtype}{shape}; backend {origin.backend} on {origin.device}",
        file=sys.stderr,
    )
    worth = "MEASURED" if meter.measured else "NOT MEASURED"
    print(f"energy: {worth}, source {meter.name} on {meter.device}. {meter.note}".rstrip(), file=sys.stderr)
    if engine.curve is not None:
        print(f"predictions: {_predicted_by(engine.curve, engine.curve_key)}", file=sys.stderr)


def _predicted_by(curve: OperatingCurve, here: CurveKey) -> str:
    if elsewhere := curve.mismatch(here):
        rule = "its stopping rule alone is used" if curve.stopping else "AND IT HOLDS NO STOPPING RULE"
        return f"by the warm-up; {elsewhere}: its joules are not this run's, {rule}"
    of = f"the operating curve of {curve.provenance.date[:10]}"
    off = f"{curve.off:.1%} off on requests it had not seen"
    if curve.predicts:
        return f"by {of}, {off}"
    return f"by the warm-up; {of} IS REFUSED, {off}, more than {MOST_OFF:.0%}: fit it anew with bench.curves"


class Progress:
    """Shows one request. `stdout` None: its text is not shown. `quiet`: nothing on stderr.

    `streams`: the text comes token by token; otherwise, as with several samples, at the end.
    """

    def __init__(
        self,
        stdout: TextIO | None,
        *,
        quiet: bool,
        budget_j: float | None,
        source: str,
        streams: bool = True,
    ) -> None:
        self._stdout, self._quiet, self._budget_j, self._source = stdout, quiet, budget_j, source
        self._streams = streams
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._printed = 0
        self._tokens = 0
        self._line = self._last_status = ""
        self._started_s = self._shown_s = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self._quiet and self._console.is_terminal:
            # With both streams on one terminal, rich redraws its line below what is written to stdout.
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_live()

    def on_step(self, step: Step) -> None:
        """A token came."""
        self._tokens += 1
        if self._streams:
            self._stream(step.text)
        interval_s = _REDRAW_S if self._live else _LINE_S
        now = time.monotonic()
        if self._quiet or now - self._shown_s < interval_s:
            return
        self._shown_s = now
        status = self._status(step, now)
        if self._live:
            self._last_status = status
            self._redraw(self._live)
        else:
            print(status, file=sys.stderr, flush=True)

    def finish(self, result: Generation, samples: str | None = None, new_tokens: int | None = None) -> None:
        """The request is over: what was held back of the text, a newline, the summary.

        `samples`: a line about the others that `result` was chosen from; `new_tokens` of all of them.
        """
        self._stream(result.text[self._printed :])
        self._end_live()
        if self._stdout is not None:
            self._stdout.write("\n")
            self._stdout.flush()
        if not self._quiet:
            for line in [samples, *summary(result, new_tokens)]:
                if line is not None:
                    print(line, file=sys.stderr)

    def _stream(self, text: str) -> None:
        self._printed += len(text)
        if self._stdout is None or not text:
            return
        if self._live and self._stdout.isatty():
            # Finished lines scroll up above the live region, the unfinished one is part of it.
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._live.console.print(Text(line))
            if lines:
                self._redraw(self._live)
            return
        self._stdout.write(text)
        self._stdout.flush()

    def _redraw(self, live: Live) -> None:
        live.update(Group(Text(self._line), Text(self._last_status, style="dim")), refresh=True)

    def _end_live(self) -> None:
        if self._live is None:
            return
        live, self._live = self._live, None
        live.update(Text(""), refresh=True)
        live.stop()
        if self._stdout is not None and self._line:
            self._stdout.write(self._line)
            self._stdout.flush()

    def _status(self, step: Step, now: float) -> str:
        spent_j = step.energy().spent_j
        of = f" of {self._budget_j:g}" if self._budget_j is not None else ""
        speed = self._tokens / (now - self._started_s)
        return (
            f"{step.phase} · {self._tokens} tokens · {spent_j:.2f}{of} J ({self._source}) · "
            f"{spent_j / self._tokens:.3g} J/token · {speed:.1f} tok/s"
        )


def summary(result: Generation, new_tokens: int | None = None) -> list[str]:
    """What a run came to, one line; a second and third where a budget or a failing meter needs one.

    `new_tokens`: of all samples, where `result` is one of several: speed and joules are of all, too.
    """
    energy, stop = result.energy, result.stop
    spread = "" if energy.window_uncertainty_j is None else f" ± {energy.window_uncertainty_j:.2g}"
    worth = f"measured by {energy.source}" if energy.measured else f"by {energy.source}, not measured"
    parts = [f"{name} {format_j(phase.energy_j)}" for name, phase in energy.phases.items()]
    steps_j = sum(phase.energy_j or 0.0 for phase in energy.phases.values())
    if energy.window_j is not None:
        parts.append(f"between steps {format_j(energy.window_j - steps_j)}")
    forced = f" (answer forced, ended by {stop.answer_end})" if stop.forced_answer else ""
    count, per_s = len(result.token_ids), result.timing.decode_tokens_per_s
    each_j = result.joules_per_new_token
    if new_tokens is not None:
        count, each_j = new_tokens, energy.window_j and energy.window_j / max(new_tokens, 1)
    speed = f" at {per_s:.1f} tok/s" if per_s else ""  # the only token of a request comes from its prefill
    lines = [
        f"{count} new token{'' if count == 1 else 's'}{speed}, "
        f"stop: {stop.reason}{forced} | {format_j(energy.window_j)}{spread} J {worth}, "
        f"{format_j(each_j)} J/new token | J: {', '.join(parts)}"
    ]
    lines += [f"{policy.name}: {policy.description}" for policy in stop.policies if policy.description]
    if ":" in stop.probe_mode:
        lines.append(f"probes: {stop.probe_mode}")
    if result.budget:
        lines.append(_budget_line(result.budget))
    if not energy.complete:
        lines.append(f"ENERGY INCOMPLETE: {energy.problem}")
    lines += _attribution_lines(energy)
    if stop.answer_end is StopReason.CANCELLED:
        lines.append("cancelled")
    return lines + [_stage_line(stage) for stage in result.profile or ()]


def _attribution_lines(energy: EnergyReport) -> list[str]:
    """What the phases' figures rest on, where that is not plain from the source."""
    lines = []
    if energy.attribution == "model":
        parts = [
            f"{name} {format_j(phase.model_j)} ± {_Z95 * phase.model_sd_j:.2g} J "
            f"({phase.ticks} tick{'' if phase.ticks == 1 else 's'})"
            for name, phase in energy.phases.items()
            if phase.model_sd_j is not None
        ]
        lines.append(
            f"by the power model, gain error not included: {', '.join(parts)}; "
            f"only ticks of {energy.tick_s * 1e3:.3g} ms are measured"
        )
    if energy.doubts:
        lines.append(f"IN DOUBT: {'; '.join(energy.doubts)}")
    if energy.not_identifiable is not None:
        lines.append(f"phases interpolated, without intervals: not identifiable: {energy.not_identifiable}")
    if energy.other_processes:
        numbers = ", ".join(map(str, energy.other_processes))
        lines.append(
            f"NOT ALONE on {energy.device}: process {numbers} computed there, too; all joules are here"
        )
    return lines


def _stage_line(stage: StageTime) -> str:
    row = stage.to_json()
    joules = ""
    if stage.energy_j is not None:
        joules = f", {stage.energy_j / stage.calls * 1e3:.3g} mJ each, attributed by share of time"
    return (
        f"{stage.kind} {stage.stage}: {stage.calls} calls, {row['us_per_call']:.1f} µs each, "
        f"{row['gb_per_s']:.3g} GB/s, {row['gflop_per_s']:.3g} GFLOP/s{joules}"
    )


def _budget_line(budget: Budget) -> str:
    """Whether the budget was kept: certain where the interval of what was spent lies on one side of it."""
    spent_j, around_j = budget.spent_j, budget.uncertainty_j or 0.0
    if spent_j is None:
        verdict = "nobody knows whether it was kept"
    elif spent_j + around_j <= budget.joules:
        verdict = "kept"
    elif spent_j - around_j > budget.joules:
        verdict = f"exceeded by {format_j(budget.overshoot_j)} J"
    else:
        verdict = "kept or exceeded: within the meter's uncertainty"
    spread = "" if budget.uncertainty_j is None else f" ± {budget.uncertainty_j:.2g}"
    held = "were held back for the answer"
    if budget.reserve_j > budget.joules:
        held = "would have had to be held back for a whole answer, more than the budget"
    return (
        f"budget: {budget.joules:g} J, {format_j(spent_j)}{spread} J spent, {verdict}; "
        f"{budget.reserve_j:.2g} J {held}"
    )
