"""Joules of a piece of work by repetition, without any attribution: the same again and again, whole ticks.

Only readings that tell of the busy stretch alone count: from the first one that no longer holds anything of
the rest before it to the last one before the work ended. The counter's rise between those two is the truth's
only measurement. A kind's joules are what is left of it after the other kinds, each at a power that was
measured by itself, over the seconds of the steps' own clock. Powers are constant within a kind here, and
that is all that is assumed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.distributions import t_quantile
from bench.repeated import UNKNOWN_TICK_S
from engine.energy.attribution import StepMark
from engine.energy.ledger import Ledger
from engine.energy.meter import MICROJOULES_PER_JOULE, Reading, Sensor
from engine.energy.poller import Poller
from engine.energy.power_trace import Array
from engine.errors import MeterError

BLOCKS = 10  # of ticks, whose scatter is the truth's interval
LEAST_REQUESTS = 5
_LEAST_DIFFERENCE = 0.05
GAP = "gap"


def tick_s(poller: Poller) -> float:
    """Seconds between two readings, as seen or as the sensor says."""
    return poller.tick_s() or poller.meter.sensor.period_s or UNKNOWN_TICK_S


@dataclass(frozen=True, slots=True)
class Power:
    """W with the half-width of its 95 % interval, the sensor's gain left out."""

    watts: float
    half_w: float


@dataclass(frozen=True, slots=True)
class Truth:
    """J of one request's part; `half_j` of the 95 % interval in which the part of a single request lies.

    `blocks_j`: the same by each block of ticks. `seconds`: of that part, mean over the requests. `gap_share`:
    of the busy stretch, in which no step ran.
    """

    energy_j: float
    half_j: float
    blocks_j: tuple[float, ...]
    seconds: float
    power: Power
    gap_share: float
    requests: int
    ticks: int


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """`energy_j` (n,): rises of the whole ticks; `seconds`: by kind (n,), what each of them saw of it.

    `of_request`: by kind (m,), the seconds of each request that ended.
    """

    energy_j: Array
    seconds: Mapping[str, Array]
    of_request: Mapping[str, Array]

    @classmethod
    def of(
        cls,
        readings: Sequence[Reading],
        requests: Sequence[Sequence[StepMark]],
        sensor: Sensor,
        start_s: float,
        end_s: float,
    ) -> "Stretch":
        """Raises `MeterError` for fewer ticks than there are blocks."""
        kept = [
            r for r in readings if r.time_s - sensor.tail_s >= start_s and r.time_s - _lag(sensor) <= end_s
        ]
        if len(kept) <= BLOCKS:
            raise MeterError(f"{max(len(kept) - 1, 0)} whole ticks lie in the busy stretch: too few")
        times_s = np.array([r.time_s for r in kept])
        energy_j = np.diff([r.energy_uj for r in kept]) / MICROJOULES_PER_JOULE
        marks = [mark for request in requests for mark in request]
        kinds = list(dict.fromkeys(mark.kind for mark in marks))
        seconds = {kind: _seen([m for m in marks if m.kind == kind], times_s, sensor) for kind in kinds}
        busy_s = np.sum([*seconds.values()], axis=0) if kinds else np.zeros(len(energy_j))
        of_request = {
            kind: np.array([sum(m.end_s - m.start_s for m in r if m.kind == kind) for r in requests])
            for kind in kinds
        }
        return cls(energy_j, {**seconds, GAP: np.diff(times_s) - busy_s}, of_request)

    @property
    def gap_share(self) -> float:
        """Of the seconds that the ticks saw."""
        return float(self.seconds[GAP].sum() / sum(part.sum() for part in self.seconds.values()))

    def power(self) -> Power:
        """Of a stretch in which nothing ran."""
        whole_s = float(self.seconds[GAP].sum())
        watts = float(self.energy_j.sum()) / whole_s
        return Power(watts, self._half_j(self.energy_j - watts * self.seconds[GAP]) / whole_s)

    def truth(self, kind: str, gaps: Power, others: Mapping[str, Power]) -> tuple[Truth, Truth]:
        """(of `kind`, of the whole request), `others` being the powers of all other kinds in it.

        The interval holds the scatter of the blocks, the doubt about those powers (not of the whole: what one
        kind has too much another has too little), that about the gaps', and how much requests differ.
        Raises `MeterError` for a kind that no tick saw, `ValueError` for a power that is not given.
        """
        missing = set(self.seconds) - {kind, GAP, *others}
        if missing:
            raise ValueError(f"the power of {', '.join(sorted(missing))} is not given")
        known = {name: others[name] for name in self.seconds if name in others}
        seen_s = float(self.seconds.get(kind, np.zeros(1)).sum())
        if seen_s <= 0:
            raise MeterError(f"no whole tick saw anything of {kind}")
        gap_s = self.seconds[GAP]
        rest_j = sum(known[name].watts * self.seconds[name] for name in known) + gaps.watts * gap_s
        watts = float((self.energy_j - rest_j).sum()) / seen_s
        # (n,): what each tick has beyond what these powers make of it
        left_j = self.energy_j - rest_j - watts * self.seconds[kind]
        ticks_half_j = math.hypot(self._half_j(left_j), gaps.half_w * float(gap_s.sum()))
        others_half_j = [power.half_w * float(self.seconds[name].sum()) for name, power in known.items()]
        power = Power(watts, math.hypot(ticks_half_j, *others_half_j) / seen_s)
        powers = {**known, kind: power}
        each_j = {name: powers[name].watts * self.of_request[name] for name in powers}
        seen = seen_s / float(self.of_request[kind].mean())  # requests that the ticks saw
        spread_j = [float(block.sum()) / seen * BLOCKS for block in _blocks(left_j)]
        mine = self._truth(each_j[kind], power.half_w * seen_s / seen, spread_j, power, self.of_request[kind])
        whole_j = np.sum([*each_j.values()], axis=0)
        whole_s = np.sum([*self.of_request.values()], axis=0)
        mean_w = float(whole_j.sum() / whole_s.sum())
        mean = Power(mean_w, ticks_half_j / seen / float(whole_s.mean()))
        return mine, self._truth(whole_j, ticks_half_j / seen, spread_j, mean, whole_s)

    def _truth(
        self, each_j: Array, half_j: float, spread_j: Sequence[float], power: Power, each_s: Array
    ) -> Truth:
        count, mean_j = len(each_j), float(each_j.mean())
        # Where another request lies that scatters as these do.
        scatter_j = t_quantile(0.95, count - 1) * math.sqrt(1 + 1 / count) * float(each_j.std(ddof=1))
        return Truth(
            energy_j=mean_j,
            half_j=math.hypot(half_j, scatter_j),
            blocks_j=tuple(mean_j + off_j for off_j in spread_j),
            seconds=float(each_s.mean()),
            power=power,
            gap_share=self.gap_share,
            requests=count,
            ticks=len(self.energy_j),
        )

    def residual_half_j(self, watts: Mapping[str, float]) -> float:
        """Half-width of the 95 % interval of the rises' sum, from what these powers leave of them."""
        told = np.sum([watts[name] * part for name, part in self.seconds.items()], axis=0)
        return self._half_j(self.energy_j - told)

    @staticmethod
    def _half_j(left_j: Array) -> float:
        """Half-width of the 95 % interval of the sum (n,) whose residuals these are, from blocks of it."""
        sums = np.array([block.sum() for block in _blocks(left_j)])
        return float(t_quantile(0.95, BLOCKS - 1) * sums.std(ddof=1) * math.sqrt(BLOCKS))


def gap_power(short: Stretch, long: Stretch, kind: str) -> Power:
    """What the device draws between two requests, from the same requests with short and with long gaps.

    Not what it draws at rest: clocks stay up for a while. Raises `MeterError` where the gaps do not differ.
    """
    seconds = np.array([[part.seconds[name].sum() for name in (kind, GAP)] for part in (short, long)])
    shares = seconds[:, 1] / seconds.sum(axis=1)
    if not shares[1] > shares[0] + _LEAST_DIFFERENCE:
        raise MeterError(f"gaps of {shares[0]:.1%} and {shares[1]:.1%} tell nothing of the power in them")
    inverse = np.linalg.inv(seconds)
    kind_w, gap_w = inverse @ [float(part.energy_j.sum()) for part in (short, long)]
    watts = {kind: float(kind_w), GAP: float(gap_w)}
    halves_j = [part.residual_half_j(watts) for part in (short, long)]
    return Power(float(gap_w), float(np.hypot(*(inverse[1] * halves_j))))


def _blocks(values: Array) -> list[Array]:
    return np.array_split(values, BLOCKS)


def _lag(sensor: Sensor) -> float:
    return sensor.lag_s or 0.0


def _seen(marks: Sequence[StepMark], times_s: Array, sensor: Sensor) -> Array:
    """(n,) seconds of these steps behind each rise between (n + 1,) readings.

    A counter that integrates tells of the time between two readings, moved by the mean delay. One that
    samples shows the mean over its window for the whole tick; a filter counts as a window of twice its time
    constant.
    """
    edges_s = np.array([time for mark in marks for time in (mark.start_s, mark.end_s)])
    lasted_s = np.repeat([mark.end_s - mark.start_s for mark in marks], 2)
    lasted_s[::2] = 0.0
    spent_s = np.cumsum(lasted_s)  # at each edge, how long such steps have run

    def until(at_s: Array) -> Array:
        return np.asarray(np.interp(at_s, edges_s, spent_s, left=0.0), np.float64)

    lengths_s = np.diff(times_s)
    window_s = (sensor.window_s or 0.0) + 2 * sensor.tau_s
    if not sensor.sampled or window_s == 0.0:
        return np.asarray(np.diff(until(times_s - sensor.delay_s)), np.float64)
    last_s = times_s[1:] - _lag(sensor)
    return np.asarray((until(last_s) - until(last_s - window_s)) / window_s * lengths_s, np.float64)


def repeated(
    poller: Poller, prepare: Callable[[], Callable[[], Sequence[StepMark]]], *, seconds: float, ticks: int
) -> Stretch:
    """Run what `prepare` gives until `seconds` and `ticks` whole ticks are behind it, edges not counted.

    Raises `MeterError` where the meter fails or shows too few ticks.
    """
    sensor, period_s = poller.meter.sensor, tick_s(poller)
    length_s = max(seconds, ticks * period_s) + sensor.tail_s + 2 * period_s
    requests: list[Sequence[StepMark]] = []
    ledger = Ledger(poller)
    ledger.start()
    while poller.clock() - ledger.start_s < length_s or len(requests) < LEAST_REQUESTS:
        requests.append(prepare()())
    end_s = requests[-1][-1].end_s if requests[-1] else poller.clock()
    report = ledger.finish()
    if not report.complete:
        raise MeterError(f"the joules of the repeats are not known: {report.problem}")
    kept = [request for request in requests if request]
    start_s = kept[0][0].start_s if kept else ledger.start_s
    return Stretch.of(ledger.readings(), kept, sensor, start_s, end_s)
