"""Single-shot joules beside what repetition tells: the comparisons, and the checks that need no truth.

Each size is run once behind an idle device and attributed by the ledger's model; then its prefill alone and
the whole request are repeated until the counter has told of each by whole ticks (`bench.truth.repeats`).
Decode's truth is the repeated request's less its prefills, at the power of the prefills alone, over the
steps' own seconds: unlike the difference of n and 2n tokens it is of just the steps that were attributed. A
prefill's truth is shared by the sizes with that prompt. Between requests the device draws what the same
prefills with longer gaps tell. Both sides have the sensor's gain, which neither sees.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.curve_requests import Prepare, Sampler, Size
from bench.truth.findings import Comparison, Figure, Shuffle, Study
from bench.truth.plan import Plan
from bench.truth.repeats import Power, Stretch, Truth, gap_power, repeated, tick_s
from engine.energy.account import settle
from engine.energy.attribution import Share, StepMark
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller
from engine.energy.power_model import NotIdentifiable, PowerModel, Run
from engine.energy.report import joules
from engine.errors import MeterError

Say = Callable[[str], None]
_FILLER = Size(8, 8, 1)
_LEAST_RUNS = 8  # behind a power model: below that not even the drift between requests is told


@dataclass
class Runner:
    """Runs a study on what is behind `poller`. `prepare` as in `bench.curve_requests`.

    `keep` is given every comparison as it comes.
    """

    poller: Poller
    prepare: Prepare
    plan: Plan
    rng: np.random.Generator
    say: Say
    sleep: Callable[[float], None]
    keep: Callable[[Comparison], object]
    _singles: list[tuple[Size, Run]] = field(default_factory=list)
    _prefills: dict[int, Truth] = field(default_factory=dict)
    _wholes: dict[Size, Truth] = field(default_factory=dict)

    def run(self, power: PowerModel | None) -> Study:
        """`power`: of a curve, of other requests than these; None to fit one first.

        Raises `NotIdentifiable` where none can be fitted, `MeterError` where the meter fails.
        """
        begun_s, found = self.poller.clock(), Study()
        until_s = begun_s + self.plan.total_s
        power = power or self.fit(begun_s + self.plan.pool_share * self.plan.total_s)
        idle = found.idle = self._stretch(lambda: self._rest).power()
        gaps = found.gaps = self._gaps()
        for name, drawn in (("at rest", idle), ("between requests", gaps)):
            self.say(f"{name} {drawn.watts:.2f} ± {drawn.half_w:.2g} W")
        sizes = self.plan.sizes
        order = [sizes[index] for index in self.rng.permutation(len(sizes))]
        for done, size in enumerate(order):
            if self.poller.clock() >= until_s:
                found.cut.append(f"{len(order) - done} of {len(order)} sizes")
                break
            found.comparisons += self._size(size, power, gaps)
        found.comparisons += self._differences(power)
        if self.poller.clock() < until_s:
            found.comparisons += self._shams(power, idle)
        else:
            found.cut.append("the sham phases")
        found.shuffle = self._shuffle()
        return found

    def fit(self, until_s: float = math.inf) -> PowerModel:
        """From sizes between the plan's, each repeated until the meter has seen it."""
        from engine.energy.power_fit import fit_power

        sampler = Sampler(self.poller, self.prepare, _FILLER)
        runs: list[Run] = []
        self.prepare(_FILLER)()
        lows, highs = zip(*((min(v), max(v)) for v in (self.plan.prompts, self.plan.new_tokens)), strict=True)
        while len(runs) < self.plan.pool and (len(runs) < _LEAST_RUNS or self.poller.clock() < until_s):
            drawn = np.exp(self.rng.uniform(np.log(lows), np.log(highs)))
            runs.append(sampler.take(Size(round(float(drawn[0])), round(float(drawn[1])), 1)).run)
        power = fit_power(runs, self.poller.meter.sensor)
        self.say(f"powers from {power.ticks} ticks of {power.runs} samples")
        for doubt in power.doubts:
            self.say(f"doubt: {doubt}")
        return power

    def _gaps(self) -> Power:
        """Between requests, from the prefills in which gaps weigh most: as they come, and with pauses."""
        only = Size(min(self.plan.prompts), 1, 1)
        short = self._repeat(only)
        steps_s = float(short.of_request["prefill"].mean())
        pause_s = steps_s * (1 + short.gap_share / (1 - short.gap_share))

        def prepare() -> Callable[[], Sequence[StepMark]]:
            request = _by_kind(self.prepare(only))
            self.sleep(pause_s)
            return request

        return gap_power(short, self._stretch(prepare), "prefill")

    def _size(self, size: Size, power: PowerModel, gaps: Power) -> Iterator[Comparison]:
        """Both phases of one size; with a prompt that is new, what its prefill alone takes, too."""
        single = self._single(size)
        alone = size.prompt_tokens not in self._prefills
        if alone:
            only = Size(size.prompt_tokens, 1, 1)
            lone = self._single(only)
            self._prefills[size.prompt_tokens] = self._repeat(only).truth("prefill", gaps, {})[0]
        prefill = self._prefills[size.prompt_tokens]
        decode, whole = self._repeat(size).truth("decode", gaps, {"prefill": prefill.power})
        self._wholes[size] = whole
        self._singles.append((size, single))
        figures = self._figures(single, power)
        for what, truth in (("prefill", prefill), ("decode", decode)):
            yield self._told(Comparison("comparison", what, size, figures[what], truth))
        if alone:
            both = _sum(self._figures(lone, power)["prefill"], figures["decode"])
            yield self._told(Comparison("additivity", "prefill alone and decode", size, both, whole))

    def _differences(self, power: PowerModel) -> Iterator[Comparison]:
        """The later half of 2n tokens against what 2n tokens took more than n, prefills cancelled."""
        for size, run in self._singles:
            half = Size(size.prompt_tokens, size.new_tokens // 2, 1)
            if size.new_tokens % 2 or half not in self._wholes:
                continue
            more, less = self._wholes[size], self._wholes[half]
            difference = replace(
                more,
                energy_j=more.energy_j - less.energy_j,
                half_j=float(np.hypot(more.half_j, less.half_j)),
                blocks_j=tuple(a - b for a, b in zip(more.blocks_j, less.blocks_j, strict=False)),
                seconds=more.seconds - less.seconds,
                power=replace(
                    more.power, watts=(more.energy_j - less.energy_j) / (more.seconds - less.seconds)
                ),
            )
            later = [
                replace(mark, shares=(Share(0, "later" if i >= half.new_tokens else mark.kind, 1),))
                for i, mark in enumerate(run.marks, size.new_tokens - len(run.marks))
            ]
            figure = self._figures(replace(run, marks=tuple(later)), power)["later"]
            yield self._told(Comparison("differencing", "the later half", size, figure, difference))

    def _shams(self, power: PowerModel, idle: Power) -> Iterator[Comparison]:
        """Idle time behind a request, booked as a phase: it must read what the idle device draws."""
        size, period_s = self.plan.sizes[len(self.plan.sizes) // 2], tick_s(self.poller)
        for _ in range(self.plan.shams):
            self._rest_a_while()
            ledger = Ledger(self.poller)
            request = self.prepare(size)
            ledger.start()
            marks = [*request()]
            self.sleep(self.plan.idle_s * self.rng.uniform(0.5, 1.0))
            begun_s = self.poller.clock()
            self.sleep(12 * period_s * self.rng.uniform(1.0, 1.5))
            end_s = self.poller.clock()
            marks.append(StepMark("sham", begun_s, end_s, (Share(0, "sham", 1),)))
            figure = self._figures(_of(ledger, marks), power)["sham"]
            truth = Truth(
                energy_j=idle.watts * (end_s - begun_s),
                half_j=idle.half_w * (end_s - begun_s),
                blocks_j=(idle.watts * (end_s - begun_s),),
                seconds=end_s - begun_s,
                power=idle,
                gap_share=1.0,
                requests=0,
                ticks=0,
            )
            yield self._told(Comparison("sham", "idle", size, figure, truth))

    def _shuffle(self) -> Shuffle | None:
        """The single requests fitted anew, as they were and with their steps in another order.

        None for too few of them.
        """
        if len(self._singles) < _LEAST_RUNS:
            return None
        try:
            right = self._prefill_error([run for _, run in self._singles])
        except NotIdentifiable as reason:
            self.say(f"no label shuffle: {reason}")
            return None
        try:
            wrong = self._prefill_error([_shuffled(run, self.rng) for _, run in self._singles])
        except NotIdentifiable as reason:
            return Shuffle(right, None, str(reason))
        return Shuffle(right, wrong)

    def _prefill_error(self, runs: Sequence[Run]) -> float:
        """Mean share by which the prefills' powers from these runs are off from the repeats'."""
        from engine.energy.power_features import Features
        from engine.energy.power_fit import fit_power

        power = fit_power(runs, self.poller.meter.sensor)
        features, errors = Features.of_model(power), []
        for (size, _), given in zip(self._singles, runs, strict=True):
            marks = [mark for mark in given.marks if mark.kind == "prefill"]
            spans_s = np.array([mark.end_s - mark.start_s for mark in marks])
            mine_w = float(spans_s @ features.matrix(marks) @ np.array(power.theta)) / float(spans_s.sum())
            errors.append(abs(mine_w / self._prefills[size.prompt_tokens].power.watts - 1))
        return float(np.mean(errors))

    def _single(self, size: Size) -> Run:
        """One request behind an idle device, run once before: what it compiles or captures is not in it."""
        self.prepare(size)()
        self._rest_a_while()
        ledger = Ledger(self.poller)
        request = self.prepare(size)
        ledger.start()
        return _of(ledger, request())

    def _figures(self, run: Run, power: PowerModel) -> Mapping[str, Figure]:
        """The ledger's account of a request, by phase."""
        account = settle(run, self.poller.meter.sensor, power, None, by_model=True)
        names = dict.fromkeys(share.phase for mark in run.marks for share in mark.shares)
        seconds = {
            name: sum(m.end_s - m.start_s for m in run.marks if m.shares[0].phase == name) for name in names
        }
        phases = account.found.phases if account.found else None
        if phases is None:
            return {name: Figure(None, 0.0, seconds[name], account.refusal or "not told") for name in names}
        return {
            name: Figure(joules(phases[name].energy_uj), joules(phases[name].sd_uj), seconds[name])
            for name in names
        }

    def _repeat(self, size: Size) -> Stretch:
        return self._stretch(lambda: _by_kind(self.prepare(size)))

    def _stretch(self, prepare: Callable[[], Callable[[], Sequence[StepMark]]]) -> Stretch:
        return repeated(self.poller, prepare, seconds=self.plan.truth_s, ticks=self.plan.truth_ticks)

    def _rest(self) -> Sequence[StepMark]:
        self.sleep(tick_s(self.poller))
        return ()

    def _rest_a_while(self) -> None:
        """Longer than the sensor's tail, and never in step with its ticks."""
        least_s = self.plan.idle_s + self.poller.meter.sensor.tail_s
        self.sleep(least_s + self.rng.uniform(0.0, max(self.plan.idle_s, tick_s(self.poller))))

    def _told(self, found: Comparison) -> Comparison:
        size, truth = found.size, found.truth
        mine = found.single.reason if found.single.energy_j is None else f"{found.single.energy_j:.4g} J"
        verdict = {None: "no figure", True: "OUTSIDE", False: "inside"}[found.outside]
        self.say(
            f"{found.check} {size.prompt_tokens} + {size.new_tokens}, {found.what}: {mine}, repeated "
            f"{truth.energy_j:.4g} J, interval ± {found.half_j:.2g} J: {verdict}"
        )
        self.keep(found)
        return found


def _of(ledger: Ledger, marks: Sequence[StepMark]) -> Run:
    """The request of that ledger, its phases by kind. Raises `MeterError` where it is not complete."""
    report = ledger.finish()
    if not report.complete:
        raise MeterError(f"the joules of a request are not known: {report.problem}")
    return ledger.run(_kinds(marks))


def _kinds(marks: Sequence[StepMark]) -> list[StepMark]:
    """The same steps, each booked under its kind: thinking and answer are one phase here."""
    return [replace(mark, shares=(Share(0, mark.kind, 1),)) for mark in marks]


def _by_kind(request: Callable[[], Sequence[StepMark]]) -> Callable[[], Sequence[StepMark]]:
    return lambda: _kinds(request())


def _sum(one: Figure, other: Figure) -> Figure:
    """Of two requests: the deviations add up, since one power model is behind both."""
    if one.energy_j is None or other.energy_j is None:
        return Figure(None, 0.0, one.seconds + other.seconds, one.reason or other.reason)
    return Figure(one.energy_j + other.energy_j, one.sd_j + other.sd_j, one.seconds + other.seconds)


def _shuffled(run: Run, rng: np.random.Generator) -> Run:
    """The same steps, as long as they were, in another order between the same ends."""
    lasted_s = [mark.end_s - mark.start_s for mark in run.marks]
    gaps_s = [b.start_s - a.end_s for a, b in zip(run.marks, run.marks[1:], strict=False)]
    now_s, marks = run.marks[0].start_s, []
    for place, index in enumerate(rng.permutation(len(run.marks))):
        marks.append(replace(run.marks[index], start_s=now_s, end_s=now_s + lasted_s[index]))
        now_s = marks[-1].end_s + (gaps_s[place] if place < len(gaps_s) else 0.0)
    return replace(run, marks=tuple(marks))
