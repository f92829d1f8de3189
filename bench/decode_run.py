"""One run of `bench.decode`: cases in turn, the arms of a case interleaved, a record for each arm and case.

A sample is `steps` decode steps behind one that is not timed, which wakes the arm's own threads while those
of the arm before sleep. The last step's row has exactly the case's context.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from resource import RUSAGE_SELF, getrusage
from statistics import median

import torch
from torch import Tensor

from bench.bandwidth import Reader, buffer, readers
from bench.bandwidth import record as reader_record
from bench.cells import Cell, check_near, started
from bench.contender import Contender, Filled, fill
from bench.joules import joules_per_token, watching
from bench.lineup import Skipped
from bench.memory import resident
from bench.record import Case, Metric, Record, Stamp, Value
from bench.source import Source
from bench.timing import Timed, WrongAnswer, interleave, settle
from kernels.cpu.crew import cores

# An arm that takes this many times as long as the fastest, and this many seconds a step, would leave the
# others few rounds: it has a few of its own, and in the first case only.
SLOW, SLOW_S, SLOW_ROUNDS = 10.0, 0.5, 3
READERS = 2  # of the readers measured at the start, how many take part in every case


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `steps` a sample; `case_s`: no round of a case begins that would end later, of the first
    case twice that.

    `room_bytes`: what the process may hold in all. `prefill` 0: none.
    """

    contexts: tuple[int, ...]
    rows: tuple[int, ...]
    prefill: int
    rounds: int
    steps: int
    case_s: float
    seed: int
    energy_source: str
    room_bytes: float
    reader_bytes: int


class DecodeRun:
    """Yields records as cases end; `skipped` grows with what did not run."""

    def __init__(
        self,
        source: Source,
        contenders: Sequence[Contender],
        plan: Plan,
        where: Stamp,
        skipped: list[Skipped],
    ) -> None:
        self.source, self.plan, self.where, self.skipped = source, plan, where, skipped
        self.contenders = list(contenders)
        self.interleaved: list[tuple[str, ...]] = []
        self._readers: list[Reader] = []

    def records(self) -> Iterator[Record]:
        """All parts, the most informative first."""
        self._same_model()
        yield from self._bandwidth()
        first = True
        for rows in self.plan.rows:
            for context in self.plan.contexts:
                yield from self._case(rows, context, first=first)
                first = False
        yield from self._scaling()
        if self.plan.prefill:
            yield from self._prefill()

    # -- what is checked before anything is timed

    def _same_model(self) -> None:
        """Every arm computes one model: its logits behind a short prompt are near the reference backend's.

        Where that does not run, near the first arm's.
        """
        draw = torch.Generator().manual_seed(self.plan.seed)
        prompt = torch.randint(self.source.config.vocab_size, (16,), generator=draw).tolist()
        logits: dict[str, Tensor] = {}
        for contender in self.contenders:
            contender.ready()
            logits[contender.arm.name] = contender.prefill(prompt)
        reference = logits.get("torch none", next(iter(logits.values())))
        for contender in list(self.contenders):
            try:
                check_near(contender.arm.quantization, logits[contender.arm.name], reference)
            except WrongAnswer as error:
                self._drop(contender, f"another model's logits: {error}")

    def _drop(self, contender: Contender, reason: str) -> None:
        self.contenders.remove(contender)
        self.skipped.append(Skipped(contender.arm.name, reason))
        _say(f"skipped {contender.arm.name}: {reason}")

    # -- the parts

    def _bandwidth(self) -> Iterator[Record]:
        found = readers(buffer(self.plan.reader_bytes), sorted({1, cores()}))
        _say("reading memory")
        seconds = interleave(
            [r.timed for r in found], rounds=max(9, self.plan.rounds // 2), seed=self.plan.seed
        )
        group = f"{self.where.run}/read"
        yield from (reader_record(r, seconds[r.timed.name], self.where, group) for r in found)
        self._readers = sorted(found, key=lambda r: median(seconds[r.timed.name]) / r.bytes)[:READERS]

    def _case(self, rows: int, context: int, *, first: bool) -> Iterator[Record]:
        case = Case(self.source.model, self.source.shape_only, "decode", rows, context)
        for index, arms in enumerate(self._groups(rows, context)):
            group = f"{self.where.run}/decode {rows}x{context}" + (f" part {index + 1}" if index else "")
            with ExitStack() as held:
                filled = self._fill(rows, context)
                cells = list(self._cells(arms, filled, case, held))
                yield from self._measure(cells, group, first=first)
                if first:
                    yield from self._alone(cells)

    def _scaling(self) -> Iterator[Record]:
        """Each arm of ours against itself: many rows, long context, beside the shortest case."""
        short, long = min(self.plan.contexts), max(self.plan.contexts)
        shapes = [(1, short), *((rows, short) for rows in self.plan.rows if rows > 1), (1, long)]
        for contender in list(self.contenders):
            if contender.arm.engine != "tokenjoule" or len(set(shapes)) < 2:
                continue
            with ExitStack() as held:
                cells = []
                for rows, context in dict.fromkeys(shapes):
                    case = Case(self.source.model, self.source.shape_only, "decode", rows, context)
                    cells += list(self._cells([contender], self._fill(rows, context), case, held))
                yield from self._measure(cells, f"{self.where.run}/scaling {contender.arm.name}")

    def _prefill(self) -> Iterator[Record]:
        tokens = self.plan.prefill
        draw = torch.Generator().manual_seed(self.plan.seed)
        prompt = torch.randint(self.source.config.vocab_size, (tokens,), generator=draw).tolist()
        case = Case(self.source.model, self.source.shape_only, "prefill", 1, 0, tokens)
        group = f"{self.where.run}/prefill {tokens}"
        arms = [
            Timed(c.arm.name, partial(c.prefill, prompt), setup=partial(_ready, c)) for c in self.contenders
        ]
        _say(f"prefill of {tokens}")
        rounds = max(3, self.plan.rounds // 4)
        with watching(self.plan.energy_source) as watch:
            taken = interleave(
                arms, rounds=rounds, seed=self.plan.seed, watch=watch, budget_s=2 * self.plan.case_s
            )
        self.interleaved.append(tuple(taken))
        for contender in self.contenders:
            samples = taken[contender.arm.name]
            rate = Value("tok/s", tokens / median(samples))
            energy = joules_per_token(watch.report, contender.arm.name, tokens * len(samples))
            derived = {"rate": rate, "energy": energy}
            yield Record(
                "decode",
                self.where,
                contender.arm,
                case,
                group,
                {"step_s": Metric("s", tuple(samples))},
                derived,
            )

    # -- cells

    def _fill(self, rows: int, context: int) -> Filled:
        start = context - 1 - self.plan.steps
        return fill(self.source.config, self.source.dtype, rows, start, room=2 + self.plan.steps)

    def _cells(
        self, arms: Sequence[Contender], filled: Filled, case: Case, held: ExitStack
    ) -> Iterator[Cell]:
        """Started arms whose first step agrees with the first's of their packing, or else the first arm's.

        Only of those that decode from the same numbers: llama.cpp has a cache of its own.
        """

        def drop(contender: Contender, reason: str) -> None:
            self._drop(contender, f"wrong answer with {case.rows} rows at context {case.context}: {reason}")

        still = [contender for contender in arms if contender in self.contenders]  # some may be dropped
        yield from started(still, filled, case, self.plan.steps, held, drop)

    def _groups(self, rows: int, context: int) -> list[list[Contender]]:
        """Arms whose caches fit into memory together; ours are in every group, and share one cache."""
        config = self.source.config
        position = 2 * config.n_layers * config.n_kv_heads * config.head_dim * self.source.dtype.itemsize
        cache = float(rows * context * position)
        ours = [c for c in self.contenders if c.arm.engine == "tokenjoule"]
        groups: list[list[Contender]] = [list(ours)]
        start = self.plan.room_bytes - resident() - cache
        free = start
        for peer in self.contenders:
            if peer in ours:
                continue
            needed = 2 * cache  # both of its variants, while they are tried
            if free < needed and len(groups[-1]) > len(ours):
                groups.append(list(ours))
                free = start
            groups[-1].append(peer)
            free -= needed
        return [group for group in groups if group]

    def _measure(self, cells: Sequence[Cell], group: str, *, first: bool = False) -> Iterator[Record]:
        """Arms of about one speed in one group; those far slower in a few rounds of their own."""
        if not cells:
            return
        timed = {cell.name: cell.timed(self.plan.steps) for cell in cells}
        probes = interleave(list(timed.values()), rounds=1, warmups=0)
        limit = max(SLOW * min(s for (s,) in probes.values()), SLOW_S)
        slow = [cell for cell in cells if probes[cell.name][0] > limit]
        quick = [cell for cell in cells if cell not in slow]
        # the first case is the one that most is asked about
        yield from self._interleaved(quick, group, self.plan.rounds, self.plan.case_s * (1 + first))
        if slow:
            yield from self._interleaved(slow, f"{group}, slow arms", SLOW_ROUNDS, None)
        if first:
            for cell in slow:
                reason = f"more than {SLOW:g} times slower than the fastest, later cases left out"
                self._drop(cell.contender, reason)

    def _interleaved(
        self, cells: Sequence[Cell], group: str, rounds: int, budget_s: float | None
    ) -> Iterator[Record]:
        plan = self.plan
        _say(f"{group.partition('/')[2]}: {', '.join(cell.contender.arm.name for cell in cells)}")
        arms = [*(cell.timed(plan.steps) for cell in cells), *(reader.timed for reader in self._readers)]
        faults = getrusage(RUSAGE_SELF).ru_majflt
        with watching(plan.energy_source) as watch:
            taken = interleave(arms, rounds=rounds, warmups=0, seed=plan.seed, watch=watch, budget_s=budget_s)
        faults = getrusage(RUSAGE_SELF).ru_majflt - faults
        if faults:
            _say(f"{faults} pages were read from the disk meanwhile: too little memory for figures to trust")
        self.interleaved.append(tuple(cell.name for cell in cells))
        best = min(self._readers, key=lambda r: median(taken[r.timed.name]) / r.bytes)
        for reader in self._readers:
            yield reader_record(reader, taken[reader.timed.name], self.where, group)
        for cell in cells:
            tokens = cell.case.rows * plan.steps * len(taken[cell.name])
            energy = joules_per_token(watch.report, cell.name, tokens)
            read = [seconds / best.bytes for seconds in taken[best.timed.name]]
            yield cell.record(self.where, group, taken[cell.name], best.timed.name, read, energy, plan.seed)

    def _alone(self, cells: Sequence[Cell]) -> Iterator[Record]:
        """Peers once more, each with the machine for itself: whether interleaving slowed them down."""
        for cell in cells:
            if cell.contender.arm.engine != "tokenjoule" and cell.contender in self.contenders:
                group = f"{self.where.run}/alone {cell.contender.arm.name}"
                timed = cell.timed(self.plan.steps)
                taken = interleave([timed], rounds=self.plan.rounds, budget_s=self.plan.case_s / 4)
                metrics = {"step_s": Metric("s", tuple(taken[cell.name]))}
                yield Record("alone", self.where, cell.contender.arm, cell.case, group, metrics)


def _ready(contender: Contender) -> None:
    settle()
    contender.ready()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
