"""The ledger of one request: marks every forward, tells the joules so far, settles the account at the end.

It owns the marks and nothing else: readings belong to the poller, physics to `attribution`, prediction to
`predict`. Times are the meter's clock.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

from engine.energy.account import Account, settle
from engine.energy.attribution import Cumulative, Share, StepMark
from engine.energy.meter import MICROJOULES_PER_JOULE, Meter, PhaseListener, Reading, SharedDevice
from engine.energy.poller import Poller
from engine.energy.power_model import PowerModel, Run
from engine.energy.predict import Predictor
from engine.energy.report import EnergyReport, by_phase, by_row, joules, uncertainty_j
from engine.errors import MeterError
from engine.steps import EnergySoFar
from kernels.cost import Dims, RowWork

_SETTLE_S = 1.0  # longest wait for the reading that covers the end of a request
_POWER_TICKS = 4  # the power now is taken over this many latest ticks


class Ledger:
    """Joules of one request. `prior_w`: the device's power, believed until the first tick has come.

    `power`: the device's powers from earlier requests; without it a request is fitted alone. `dims`: of the
    model that runs, for the parts of a step's rows. `setup_j` is passed through to the report; `host` is read
    at both ends, for the host's joules beside the device's.
    """

    def __init__(
        self,
        poller: Poller,
        *,
        predictor: Predictor | None = None,
        prior_w: float | None = None,
        setup_j: float | None = None,
        host: Meter | None = None,
        power: PowerModel | None = None,
        dims: Dims | None = None,
    ) -> None:
        self.poller = poller
        self._power, self._dims = power, dims
        self._shared: set[int] = set()
        self._host = host
        self._host_start_uj: int | None = None
        self.predictor = predictor
        self.setup_j = setup_j
        self._sensor = poller.meter.sensor
        self._clock = poller.clock
        self._prior_w = prior_w if prior_w is not None else self._sensor.peak_w
        self._listener = poller.meter if isinstance(poller.meter, PhaseListener) else None
        self._delay_s = self._sensor.delay_s
        self._marks: list[StepMark] = []
        self._together = 1
        self._kind = "idle"
        self._tokens: dict[str, int] = {}
        self._work: list[RowWork] = []
        self._recent: list[Reading] = []
        self._base_uj: int | None = None
        self._power_w: float | None = None
        self._begun_s = self.start_s = self.end_s = 0.0

    def start(self) -> None:
        """The request begins now."""
        self._look_around()
        self._host_start_uj = self._host_uj()
        self.start_s = self.end_s = self._begun_s = self._now()

    @property
    def marks(self) -> Sequence[StepMark]:
        return self._marks

    def begin(self, kind: str, rows: Sequence[RowWork] = ()) -> None:
        """A forward of `kind` (prefill or decode) over `rows` starts now."""
        self._kind, self._work = kind, list(rows)
        self.enter(kind)
        self._begun_s = self._now()

    def end(self, shares: Sequence[Share], *, kind: str | None = None) -> float:
        """The forward begun last is over, its tokens chosen. Returns its seconds.

        `kind` says what it was where `begin` could not know.
        """
        now = self._now()
        self.enter("idle")
        self.record(kind or self._kind, self._begun_s, now, shares, self._work)
        return now - self._begun_s

    def enter(self, kind: str) -> None:
        """The device is at `kind` (prefill, decode, idle) from now on: for meters that want to know."""
        if self._listener:
            self._listener.enter(kind)

    def record(
        self,
        kind: str,
        begun_s: float,
        ended_s: float,
        shares: Sequence[Share],
        rows: Sequence[RowWork],
        *,
        together: int = 1,
    ) -> None:
        """A forward of `kind` over `rows` ran from `begun_s` to `ended_s`, behind all recorded before.

        `together`: forwards whose times are equal parts of one.
        """
        self._together = max(self._together, together)
        if self._marks:  # a device's own clock may differ from ours by microseconds
            begun_s = max(begun_s, self._marks[-1].end_s)
        ended_s = max(ended_s, begun_s)
        self._marks.append(StepMark(kind, begun_s, ended_s, tuple(shares), tuple(rows)))
        if self.predictor and rows and all(row.new == 1 for row in rows):
            self.predictor.observe(rows, ended_s - begun_s)

    def count(self, phase: str, tokens: int) -> None:
        """`tokens` tokens were emitted (prompt tokens: computed) in this phase."""
        self._tokens[phase] = self._tokens.get(phase, 0) + tokens

    def spent(self) -> EnergySoFar:
        """Joules since the start: the meter's where it has settled, power times time since."""
        now = self._now()
        settled_s, settled_uj = self._settled()
        power_w = self._power_w if self._power_w is not None else self._prior_w
        since_s = max(now - settled_s, 0.0)
        current = self._exact and self.poller.failure is None
        since_j = 0.0 if current else since_s * (power_w or 0.0)
        sd = None
        if self._sensor.gain_error is not None:
            # Half the prediction as its standard deviation: idle to twice the power lies within two of them.
            sd = math.hypot(since_j / 2, joules(self._sensor.resolution_uj) / math.sqrt(6))
        return EnergySoFar(joules(settled_uj) + since_j, sd, joules(settled_uj))

    def predict(self, rows: Sequence[RowWork], steps: int) -> tuple[float, float]:
        """(expected, upper) joules of `steps` decode forwards over `rows`."""
        power_w = self.power_w()
        if self.predictor is None or power_w is None:
            return 0.0, 0.0
        middle = self.predictor.seconds([RowWork(r.new, r.length + steps // 2) for r in rows])
        upper = self.predictor.upper_seconds([RowWork(r.new, r.length + steps) for r in rows], steps)
        return middle * steps * power_w, upper * power_w

    def power_w(self) -> float | None:
        """The device's power as last seen in this request, or believed before."""
        self._settled()
        return self._power_w if self._power_w is not None else self._prior_w

    def finish(self) -> EnergyReport:
        """Wait until the meter covers the end of the request, then attribute. The ledger is then closed."""
        self.end_s = self._now()
        host_uj = self._host_uj()
        self.enter("idle")  # an interrupted forward was never ended
        problem = None if self._exact else self._settle()
        if self.poller.failure is not None:
            problem = f"the meter failed: {self.poller.failure}"
        self._look_around()
        host_j = None
        if host_uj is not None and self._host_start_uj is not None:
            host_j = joules(host_uj - self._host_start_uj)
        return self._report(problem, host_j)

    def _settle(self) -> str | None:
        """Wait for the reading that covers the end; what went wrong, if it did not come."""
        sensor = self._sensor
        covered_s = self.end_s + sensor.tail_s
        wait_s = _SETTLE_S + sensor.tail_s + 2 * (sensor.period_s or 0.0)
        try:
            if self.poller.wait_for_change(covered_s, wait_s) or self.poller.failure is not None:
                return None
        except KeyboardInterrupt:
            return "interrupted before the meter had covered the end"
        return f"no reading came within {wait_s:.1f} s after the end"

    def _report(self, problem: str | None, host_j: float | None) -> EnergyReport:
        readings = self.readings()
        if len(readings) < 2:
            account = Account(None, {}, None, None)
            problem = problem or "the meter gave fewer than two readings"
        else:
            marks: Sequence[StepMark] = self._marks
            if problem:  # what the readings do not cover has no joules
                last_s = readings[-1].time_s - self._delay_s
                marks = [mark for mark in marks if mark.end_s <= last_s]
            run = self.run(marks)
            wanted = problem is None and not self._fresh and bool(marks)
            account = settle(run, self._sensor, self._power, self._dims, by_model=wanted)
        meter, sensor, found = self.poller.meter, self._sensor, account.found
        known = found is not None and account.phase_sd_uj is not None
        return EnergyReport(
            source=meter.name,
            measured=meter.measured,
            device=meter.device,
            note=meter.note,
            attribution="model" if found is not None and found.model_uj is not None else "interpolated",
            tick_s=0.0 if self._fresh else (self.poller.tick_s() or sensor.period_s or 0.0),
            ticks=found.ticks if found else 0,
            total_j=joules(found.total_uj) if found else None,
            uncertainty_j=uncertainty_j(found.total_uj, 0.0, sensor) if found else None,
            window_j=joules(found.window_uj) if found else None,
            window_uncertainty_j=(
                uncertainty_j(found.window_uj, account.window_sd_uj, sensor)
                if found and account.window_sd_uj is not None
                else None
            ),
            unattributed_j=joules(found.unattributed_uj) if found else None,
            idle_j=(
                sensor.idle_w * (readings[-1].time_s - readings[0].time_s)
                if found and sensor.idle_w is not None
                else None
            ),
            setup_j=self.setup_j,
            host_j=host_j,
            phases=by_phase(self._marks, found, self._tokens, account.phase_sd_uj, self._dims),
            rows=by_row(self._marks[: len(found.steps_uj)], found, with_sd=known, dims=self._dims)
            if found
            else {},
            complete=problem is None,
            problem=problem,
            not_identifiable=account.refusal,
            other_processes=tuple(sorted(self._shared)),
            steps_timed_together=self._together,
            doubts=found.doubts if found else (),
        )

    def run(self, marks: Sequence[StepMark]) -> Run:
        """This request as a fit of powers sees it, its steps being `marks`."""
        readings = self.readings()
        # The poller's very first reading was taken for itself, not when the counter changed.
        is_change = self.poller.log().readings[0] != readings[0]
        return Run(tuple(readings), tuple(marks), self.start_s, self.end_s, is_change)

    def _look_around(self) -> None:
        """Note who else computes on the device."""
        if isinstance(self.poller.meter, SharedDevice):
            with suppress(
                MeterError
            ):  # a driver that does not tell, or a meter that fails: that is said there
                self._shared.update(self.poller.meter.other_processes())

    def _host_uj(self) -> int | None:
        """The host's counter; None without one, or when it fails: the device's account goes on."""
        try:
            return self._host.read().energy_uj if self._host else None
        except MeterError:
            return None

    @property
    def _exact(self) -> bool:
        """Whether a reading taken now tells of everything up to now."""
        return self.poller.fresh and self._sensor.tail_s == 0

    @property
    def _fresh(self) -> bool:
        return self.poller.fresh

    def _now(self) -> float:
        """The time; where every read is fresh, that of a reading taken for this moment."""
        if not self._fresh:
            return self._clock()
        try:
            return self.poller.poll().time_s
        except MeterError:  # kept in the poller's `failure`; the answer goes on without joules
            return self._clock()

    def _settled(self) -> tuple[float, int]:
        """(until when the meter has told of this request, the µJ it told)."""
        latest = self.poller.latest
        if latest is None or latest.time_s - self._delay_s <= self.start_s:
            return self.start_s, 0
        if self._base_uj is None:
            readings = self.readings()
            self._base_uj = readings[0].energy_uj + Cumulative(readings, self._sensor).at(self.start_s)
            self._recent = [r for r in readings if r.time_s - self._delay_s > self.start_s]
        if not self._recent or latest.energy_uj != self._recent[-1].energy_uj:
            self._recent.append(latest)
        self._update_power()
        return latest.time_s - self._delay_s, latest.energy_uj - self._base_uj

    def _update_power(self) -> None:
        del self._recent[: -_POWER_TICKS - 1]
        first, last = self._recent[0], self._recent[-1]
        if last.time_s > first.time_s:
            rise_j = (last.energy_uj - first.energy_uj) / MICROJOULES_PER_JOULE
            self._power_w = rise_j / (last.time_s - first.time_s)

    def readings(self) -> list[Reading]:
        """From the last reading that is over before the start to the first one that covers the end."""
        kept = list(self.poller.log(self.start_s + self._delay_s).readings)
        # That log begins with a reading taken wholly before; a later one may still be over in time.
        over = [i for i, r in enumerate(kept) if r.time_s - self._delay_s <= self.start_s]
        kept = kept[over[-1] if over else 0 :]
        if self.end_s > self.start_s:
            after = (i for i, r in enumerate(kept) if r.time_s - self._delay_s >= self.end_s)
            kept = kept[: next(after, len(kept)) + 1]
        return kept
