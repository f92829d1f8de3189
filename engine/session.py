"""One request from its prompts to its results: the decode loop and the ledger, run together."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from engine.decode import Decoder
from engine.energy.ledger import Ledger
from engine.energy.meter import play
from engine.energy.report import EnergyReport
from engine.errors import UsageError
from engine.prefilled import Prefilled, Reading
from engine.profile import ProfiledBackend, StageTime, shared_by_time
from engine.result import Applied, Budget, Ended, Generation, ModelCard, Timing
from engine.rows import Row
from engine.steps import Hook, Phase, Step, StopPolicy, StopReason
from engine.stop.base import Policy, name_of
from engine.stop.dial import Dial
from engine.stop.joule import JouleBudget
from kernels import cost
from kernels.cost import Dims, RowWork


@dataclass(frozen=True, slots=True)
class Origin:
    """What every result says of the engine that made it."""

    card: ModelCard
    backend: str
    device: str
    dims: Dims
    load_s: float


class Session:
    """Iterate over `steps()` once, then take `results()`; `cancel()` in between ends early.

    `running` is held while the session runs: one meter serves one request at a time.
    """

    def __init__(
        self,
        decoder: Decoder,
        ledger: Ledger,
        origin: Origin,
        hooks: Sequence[Hook],
        running: Lock,
        *,
        profiled: ProfiledBackend | None = None,
    ) -> None:
        self._decoder, self._ledger, self._origin, self._profiled = decoder, ledger, origin, profiled
        self._hooks, self._running = tuple(hooks), running
        self._first_token_s = 0.0
        self._begun = self._holding = False
        self._results: list[Generation] | None = None

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def dial(self) -> Dial:
        """Price and budget of this request, which any thread may turn while it runs."""
        return self._decoder.dial

    def steps(self) -> Iterator[Step]:
        """Every new token of every row as it comes. The request, and its account, begin with the first.

        Raises `UsageError` while another session of the same engine runs: both would book the whole device.
        """
        if self._begun:
            raise UsageError("a session runs once; start another")
        if not self._running.acquire(blocking=False):
            raise UsageError("another request of this engine is running; its meter serves one at a time")
        self._begun = self._holding = True
        try:
            started_s = time.monotonic()
            play(self._ledger.poller.meter)
            if self._profiled is not None:
                self._profiled.forget()
            self._ledger.start()
            for step in self._decoder.steps():
                if not self._first_token_s:
                    self._first_token_s = time.monotonic() - started_s
                yield step
        finally:
            self._release()

    def cancel(self, rows: Collection[int] | None = None) -> None:
        """End what still runs or waits, of `rows` (None: of all)."""
        self._decoder.cancel(rows)

    def begin_with(self, known: Prefilled) -> None:
        """Before the first step: prompts that begin as that one did have it from there.

        Raises `UsageError` for another model's.
        """
        self._decoder.begin_with(known)

    def read_with(self, reading: Reading) -> None:
        """Before the first step: `reading` hears of every position of the prompt, of which there is one."""
        self._decoder.prompts.reading = reading

    @property
    def rows_at_once(self) -> int:
        """How many rows begin together."""
        return len(self._decoder.prompts.first_wave)

    def ended(self, row: int) -> StopReason | None:
        """Why a row has ended; None while it runs or waits."""
        return self._decoder.rows[row].ended

    def answer(self, row: int) -> str | None:
        """What a row has answered so far; all its text on a model that does not mark its thinking."""
        found = self._decoder.rows[row]
        return found.text if found.marks is None else found.answer()

    def results(self) -> list[Generation]:
        """Settle the account: one result per row, the same when asked again. Calls the hooks' `on_end`."""
        if self._results is not None:
            return self._results
        if not self._begun:  # nothing ran, and nothing is to be booked
            self._begun = True
            self._ledger.start()
        self._decoder.cancel()  # nothing to do unless the caller stopped iterating
        report = self._ledger.finish()
        timing = self._timing()
        results = [self._result(row, report, timing) for row in self._decoder.rows]
        self._release()
        self._results = [self._tell(result) for result in results]
        return self._results

    def _release(self) -> None:
        """The meter is free for the next request."""
        if self._holding:
            self._holding = False
            self._running.release()

    def _tell(self, result: Generation) -> Generation:
        """Every hook hears of the end; one that fails costs neither the others nor the result."""
        for hook in self._hooks:
            try:
                hook.on_end(result)
            except Exception as error:
                message = f"{type(hook).__name__} failed: {type(error).__name__}: {error}"
                result = replace(result, error=result.error or message)
        return result

    def _result(self, row: Row, report: EnergyReport, timing: Timing) -> Generation:
        ended = row.ended or StopReason.ERROR
        energy = report.rows.get(row.number)
        per_token = [
            (None, None)
            if forward is None or energy is None
            else energy.by_forward.get(forward, (None, None))
            for forward in row.from_forward
        ]
        modelled = None if energy is None else energy.model_by_forward
        by_model = [
            None if forward is None or modelled is None else modelled.get(forward, (None,))[0]
            for forward in row.from_forward
        ]
        return Generation(
            row=row.number,
            model=self._origin.card,
            backend=self._origin.backend,
            device=self._origin.device,
            prompt_tokens=len(row.request.prompt_ids),
            token_ids=tuple(row.tokens[len(row.request.prompt_ids) :]),
            text=row.text,
            answer=row.answer(),
            stop=Ended(
                reason=row.thinking_cut or ended,
                policy=row.cut_by,
                forced_answer=row.thinking_cut is not None,
                answer_end=ended,
                policies=tuple(_applied(policy) for policy in row.request.policies),
                probes=row.probes,
                probe_j=None if energy is None else sum(energy.probes.values(), 0.0),
                probes_ridden=row.ridden,
                probe_mode=self._decoder.probe_mode,
            ),
            energy=report,
            per_token_j=tuple(joules for joules, _ in per_token),
            per_token_sd_j=tuple(sd for _, sd in per_token),
            per_token_model_j=None if modelled is None else tuple(by_model),
            phases_by_token=tuple(str(phase) for phase in row.phases),
            budget=self._budget(row, report),
            timing=timing,
            error=self._decoder.error,
            profile=None if self._profiled is None else self._profile(self._profiled, report),
            category=row.request.category,
        )

    def _profile(self, profiled: ProfiledBackend, report: EnergyReport) -> tuple[StageTime, ...]:
        """The stages' times, with the joules of the forwards that the meter covered shared among them."""
        forwards: dict[str, tuple[float, float]] = {}
        for number, mark in enumerate(self._ledger.marks):
            parts = [row.by_forward[number][0] for row in report.rows.values() if number in row.by_forward]
            parts += [row.probes[number] for row in report.rows.values() if number in row.probes]
            if parts:
                joules, elapsed_s = forwards.get(mark.kind, (0.0, 0.0))
                forwards[mark.kind] = joules + sum(parts), elapsed_s + mark.end_s - mark.start_s
        return shared_by_time(profiled.report(self._origin.dims), forwards)

    def _budget(self, row: Row, report: EnergyReport) -> Budget | None:
        policy = next((p for p in row.request.policies if isinstance(p, JouleBudget)), None)
        if policy is None:
            return None
        return Budget(
            joules=policy.joules,
            source=report.source,
            spent_j=report.window_j,
            reserve_j=policy.reserve_j,
            uncertainty_j=report.window_uncertainty_j,
            predictor=None if self._ledger.predictor is None else self._ledger.predictor.name,
        )

    def _timing(self) -> Timing:
        decodes = [
            mark
            for mark in self._ledger.marks
            if mark.kind == "decode" and mark.shares[0].phase != Phase.PROBE
        ]
        decode_s = sum(mark.end_s - mark.start_s for mark in decodes)
        prefill_s = sum(m.end_s - m.start_s for m in self._ledger.marks if m.kind == "prefill")
        # Probes that ride along are no tokens of the text.
        tokens = sum(share.phase != Phase.PROBE for mark in decodes for share in mark.shares)
        weights = cost.forward(self._origin.dims, [RowWork(1, 1)]).bytes
        return Timing(
            load_s=self._origin.load_s,
            first_token_s=self._first_token_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            decode_tokens_per_s=tokens / decode_s if decode_s else 0.0,
            weight_bandwidth_gb_per_s=weights * len(decodes) / decode_s / 1e9 if decode_s else 0.0,
        )


def _applied(policy: StopPolicy) -> Applied:
    """What a result says of a policy; one that is no `Policy` tells no more than its name."""
    if isinstance(policy, Policy):
        return Applied(policy.name, dict(policy.parameters), policy.description)
    return Applied(name_of(policy), {})
