"""Joules of one call by repetition: the same work until the sensor has moved many times.

What is measured is a window's energy, from its start to its end, divided by the calls in it: no single call
is resolved, and none is attributed. Only the two ticks at the edges are interpolated, so that twenty ticks
leave a few per cent of one tick's doubt. Knows meters and ledgers, and nothing of what is called.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.timing import nothing
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller

LEAST_TICKS = 20
UNKNOWN_TICK_S = 0.1  # until a counter has shown its period; 10 to 106 ms were seen, see engine.energy.nvml


@dataclass(frozen=True, slots=True)
class Repeated:
    """`calls` took `elapsed_s` and `energy_j`, gross, in all; None where the meter failed: `problem`.

    `uncertainty_j`: half-width of the window's 95 % interval, gain error included; None where the source
    allows none. `ticks`: changes of the reading that cover the window, 0 where every read is fresh.
    """

    calls: int
    elapsed_s: float
    energy_j: float | None
    uncertainty_j: float | None
    ticks: int
    problem: str | None

    @property
    def call_s(self) -> float:
        return self.elapsed_s / self.calls

    @property
    def call_j(self) -> float | None:
        return None if self.energy_j is None else self.energy_j / self.calls

    @property
    def power_w(self) -> float | None:
        return None if self.energy_j is None else self.energy_j / self.elapsed_s

    def call_less_idle_j(self, idle_w: float | None) -> float | None:
        """Joules of a call above what the device draws when idle."""
        if self.energy_j is None or idle_w is None:
            return None
        return (self.energy_j - idle_w * self.elapsed_s) / self.calls


def least_seconds(poller: Poller, wanted_s: float) -> float:
    """`wanted_s`, or as long as `LEAST_TICKS` of the meter's ticks take where that is longer."""
    if poller.fresh:
        return wanted_s
    tick_s = poller.tick_s() or poller.meter.sensor.period_s or UNKNOWN_TICK_S
    return max(wanted_s, LEAST_TICKS * tick_s)


def repeat(
    poller: Poller,
    call: Callable[[], object],
    *,
    seconds: float,
    kind: str = "decode",
    synchronise: Callable[[], object] = nothing,
) -> Repeated:
    """Call until `least_seconds` have passed, at least once; the call that was begun is finished.

    `kind` is for meters that stand in for a device. `synchronise` waits for the device; calls that only queue
    work must keep their queue short themselves.
    """
    length_s = least_seconds(poller, seconds)
    ledger = Ledger(poller)
    synchronise()
    ledger.start()
    ledger.enter(kind)
    calls = 0
    while calls == 0 or poller.clock() - ledger.start_s < length_s:
        call()
        calls += 1
    synchronise()
    report = ledger.finish()
    return Repeated(
        calls=calls,
        elapsed_s=ledger.end_s - ledger.start_s,
        energy_j=report.window_j if report.complete else None,
        uncertainty_j=report.window_uncertainty_j if report.complete else None,
        ticks=0 if poller.fresh else report.ticks,
        problem=report.problem,
    )


def idle(poller: Poller, seconds: float, *, sleep: Callable[[float], None] = time.sleep) -> Repeated:
    """The same of a device that is given nothing to do."""
    length_s = least_seconds(poller, seconds)
    return repeat(poller, lambda: sleep(length_s), seconds=length_s, kind="idle")
