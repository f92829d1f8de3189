"""Joules of interleaved arms: a `Watch` that books every timed run to its arm, on one ledger for all."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.record import Value
from bench.timing import Timed, Watch
from engine.energy import Window, measure
from engine.energy.report import EnergyReport

_Z95 = 1.96


class EnergyWatch(Watch):
    """What runs between two timed runs is nobody's. `report` once the window has closed."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def begin(self, arm: Timed) -> None:
        self._window.skip()

    def end(self, arm: Timed) -> None:
        self._window.mark(arm.name)

    @property
    def report(self) -> EnergyReport:
        return self._window.report


@contextmanager
def watching(source: str, *, cuda_device: int | None = None) -> Iterator[EnergyWatch]:
    """A watch on the meter `source`. Raises `UsageError` and `MeterError` before anything ran."""
    with measure(source, cuda_device=cuda_device) as window:
        yield EnergyWatch(window)


def joules_per_token(report: EnergyReport, arm: str, tokens: int) -> Value:
    """Of the arm's `tokens` in all its timed runs; an interval where the source allows one.

    The interval is the attribution's (1.96 standard deviations); the sensor's gain error is not in it.
    """
    phase = report.phases.get(arm)
    source = f"{report.source}, {report.attribution}"
    if phase is None or phase.energy_j is None:
        return Value("J/tok", None, reason=report.problem or "the meter told nothing", source=source)
    per_token = phase.energy_j / tokens
    if phase.sd_j is None:
        if report.not_identifiable is not None:
            source += f", no interval: {report.not_identifiable}"
        return Value("J/tok", per_token, source=source, measured=report.measured)
    half = _Z95 * phase.sd_j / tokens
    return Value("J/tok", per_token, per_token - half, per_token + half, source, report.measured)
