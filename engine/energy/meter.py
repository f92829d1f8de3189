"""What an energy source is: a counter that can be read, and what is known of the sensor behind it.

Meters only read. They know nothing of requests, steps or tokens; turning readings into joules per
step is `attribution`'s work, and deciding when to read is the poller's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Clock = Callable[[], float]  # monotonic seconds; time.monotonic, or a simulation's own

MICROJOULES_PER_JOULE = 1_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a cumulative counter.

    `energy_uj` is in whole microjoules, so that sums and differences are exact. The counter was read
    somewhere between `before_s` and `after_s` on the monotonic clock.
    """

    before_s: float
    after_s: float
    energy_uj: int

    @property
    def time_s(self) -> float:
        return (self.before_s + self.after_s) / 2


@dataclass(frozen=True, slots=True)
class Sensor:
    """What is known of the sensor behind a meter.

    `period_s`: time between two changes of the reading; 0 where every read is fresh; None if unknown.
    `lag_s`: a reading taken at t tells of the energy used up to t - lag_s; None if unknown.
    `window_s`: width of the boxcar that the sensor averages over, 0 for none, None if unknown.
    `tau_s`: time constant of the first-order filter between load and reading, 0 for none.
    `sampled`: at each change the reading advances by the time since the last one times the mean over the
    window alone, instead of by all the energy used: what lies between two windows is not seen.
    `lag_sd_s`: standard deviation of `lag_s`, where it was fitted.
    `origin`: where lag, window and tau come from, "" where nobody said.
    `resolution_uj`: the counter's step.
    `gain_error`: half-width, relative, of the 95 % interval of the sensor's gain; None where no such
    bound is known, which is the case for every estimate.
    `idle_w`: power of the idle device where it is known.
    `peak_w`: the most the device can draw, where it is known.
    """

    period_s: float | None = 0.0
    lag_s: float | None = 0.0
    window_s: float | None = 0.0
    resolution_uj: int = 1
    gain_error: float | None = None
    idle_w: float | None = None
    peak_w: float | None = None
    tau_s: float = 0.0
    sampled: bool = False
    lag_sd_s: float = 0.0
    origin: str = ""

    @property
    def delay_s(self) -> float:
        """How old the energy is that a reading tells of, on average; unknown parts count as 0."""
        return (self.lag_s or 0.0) + (self.window_s or 0.0) / 2 + self.tau_s

    @property
    def tail_s(self) -> float:
        """How long after its use energy may still be missing from a reading; unknown parts count as 0.

        Of a filter 5 time constants: 0.7 % is missing then.
        """
        return (self.lag_s or 0.0) + (self.window_s or 0.0) + 5 * self.tau_s

    @property
    def has_intervals(self) -> bool:
        """Whether an honest interval can be given.

        The gain must be bounded, lag and window known, and the window (a filter counts as one of twice its
        time constant) no wider than the period: a wider one smears energy over ticks, which interpolation
        knows nothing of. Nor does it know of a sensor that sees only part of the time.
        """
        if self.gain_error is None or self.lag_s is None or self.window_s is None or self.sampled:
            return False
        return self.window_s + 2 * self.tau_s <= (self.period_s or 0.0)


class Meter(Protocol):
    """An open energy source.

    `name`: nvml, nvml-power, rapl, estimate, simulated or replay. `measured`: whether its joules were
    measured by hardware on this machine during this run. `device`: what the joules belong to.
    `note`: one line for the user on what the figure is worth, or "".
    """

    name: str
    measured: bool
    device: str
    note: str
    sensor: Sensor

    def read(self) -> Reading:
        """The counter now. Raises `MeterError` when the source stops answering."""

    def close(self) -> None:
        """Release what the meter holds. May be called more than once."""


@runtime_checkable
class Recording(Protocol):
    """A meter that plays something back: it stands at its beginning until it is told to play."""

    def play(self) -> None:
        """Time runs from now on; once it does, further calls change nothing."""


@runtime_checkable
class PhaseListener(Protocol):
    """A meter that stands in for a device needs to be told what the device would be doing."""

    def enter(self, kind: str) -> None:
        """From now on the device does work of `kind`: idle, prefill or decode."""


@runtime_checkable
class SharedDevice(Protocol):
    """A meter of a device on which others may compute, too; its joules are everybody's."""

    def other_processes(self) -> tuple[int, ...]:
        """Numbers of the processes that have work there now, this one left out. Raises `MeterError`."""


@runtime_checkable
class Variants(Protocol):
    """A meter that one name does not tell from others: `variant` does, "" for the usual one."""

    variant: str


def source_key(meter: Meter) -> str:
    """Equal where joules are of one kind: the meter's name, and which of its variants it is."""
    variant = meter.variant if isinstance(meter, Variants) else ""
    return f"{meter.name}:{variant}" if variant else meter.name


def play(meter: Meter) -> None:
    """Let a recording run; nothing for every other meter."""
    if isinstance(meter, Recording):
        meter.play()
