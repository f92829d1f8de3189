"""The decode loop: forward, sample, emit, stop, for all rows of a request at once.

One iteration feeds every row's tokens that are not in the cache yet (one, or more behind an injection) in a
single forward and samples the next token of each. N new tokens cost one prefill and N-1 decode forwards; no
forward follows the last token. Rows with the same prompt fork one prefill. The loop owns stopping; printing,
joules and pictures belong to its consumers.
"""

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.ahead import Ahead, DeviceLoop
from engine.device_errors import failure_line
from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.prefilled import Prefilled
from engine.probe import PROBE_ROOM, TRUNCATE
from engine.probing import Probing
from engine.request_cache import new_cache
from engine.rows import Marks, Request, Row
from engine.sampler import Draw, sample_rows
from engine.shared_prompt import Prompts, by_prompt
from engine.steps import (
    Context,
    Hook,
    Inject,
    Phase,
    Prefill,
    Probe,
    Step,
    Stop,
    StopPolicy,
    StopReason,
    tapped_layers,
)
from engine.stop.base import name_of
from engine.stop.dial import Dial
from engine.thinking import ThinkingFormat
from engine.tokenizer import Tokenizer
from kernels.cost import RowWork


class Decoder:
    """One request: several rows, decoded together. Iterate over `steps()`; then read `rows`.

    `rows_at_once`: rows begin in waves of so many, each when all before it have ended; None: all at once.
    `share_prompts`: rows with the same prompt fork one prefill; otherwise each computes its own.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        requests: Sequence[Request],
        ledger: Ledger,
        *,
        thinking: ThinkingFormat | None = None,
        answer_tokens: int = 16,
        hooks: Sequence[Hook] = (),
        dial: Dial | None = None,
        probe_mode: str = TRUNCATE,
        rows_at_once: int | None = None,
        share_prompts: bool = True,
    ) -> None:
        self._model, self._tokenizer, self._ledger = model, tokenizer, ledger
        self._hooks, self._dial = tuple(hooks), dial or Dial()
        self._marks = Marks.of(thinking, tokenizer, answer_tokens) if thinking else None
        asked = [hook.needs for hook in hooks]
        asked += [policy.needs for request in requests for policy in request.policies]
        needs = frozenset[str]().union(*asked)
        self._taps = tapped_layers(needs)
        self._scores = "logprob" in needs
        self._keep_logits = "logits" in needs
        if self._taps and max(self._taps) >= model.config.n_layers:
            raise UsageError(f"hidden:{max(self._taps)} of a model with {model.config.n_layers} layers")
        context = model.config.max_context
        limits = [min(len(r.prompt_ids) + r.max_new_tokens, context) for r in requests]
        room = PROBE_ROOM * len(requests) if "probe" in needs else 0
        groups = by_prompt(requests, share=share_prompts)
        self._cache = new_cache(model, requests, limits, groups, room=room)
        self.rows = [
            Row(number, -1, request, tokenizer, self._marks, limit, context)
            for number, (request, limit) in enumerate(zip(requests, limits, strict=True))
        ]
        self.prompts = Prompts(
            model,
            self._cache,
            ledger,
            self.rows,
            groups,
            self._choose,
            taps=self._taps,
            at_once=rows_at_once or len(requests),
        )
        for row in self.rows:
            self._reset_policies(row, thinking)
        self._ahead: Ahead | None = None
        loop = self._device_loop()
        if loop is not None:
            late = needs.isdisjoint({"logits", "probe", "sync"})
            self._ahead = Ahead(loop, self._cache, ledger, late=late)
        wanted = "probe" in needs
        self._probing = Probing(model, tokenizer, self._cache, ledger, probe_mode, wanted=wanted)
        self.error: str | None = None

    def _device_loop(self) -> DeviceLoop | None:
        """What steps the device can take on its own: none that tells of hidden states.

        And none of rows that choose their answer at another temperature than their thoughts: a captured step
        is told once how its rows sample, and a step under way would choose the first token of the answer.
        """
        if self._taps or any(row.request.sampling.of_answer != row.request.sampling for row in self.rows):
            return None
        return self._model.device_loop(
            self._cache,
            self.prompts.first_wave,
            clock=self._ledger.poller.clock,
            keep_logits=self._keep_logits,
            prefix=self.prompts.in_common,
        )

    def begin_with(self, known: Prefilled) -> None:
        if known.model is not self._model:
            raise UsageError("the prompt was read by another model")
        self.prompts.known = known

    @property
    def dial(self) -> Dial:
        return self._dial

    @property
    def probe_mode(self) -> str:
        """How probes are read."""
        return self._probing.mode

    @property
    def active(self) -> list[Row]:
        return [row for row in self.rows if row.begun and row.ended is None]

    def steps(self) -> Iterator[Step]:
        """Every new token of every row, in the order of time. Ends when all rows have ended.

        An exception of a policy or hook, or a device that fails, ends all rows with reason `error`, and the
        text that they have; `error` then says what happened.
        """
        try:
            self._prefill()
            while True:
                for row in self.active:
                    if row.chosen is not None:
                        yield from self._emit(row, row.chosen)
                if not self.active:
                    if not self.prompts.waiting:
                        return
                    self.prompts.next_wave()
                    continue
                self._decode()
                yield from self._run_probes()
        except TokenjouleError as error:
            self._fail(str(error))
        except Exception as error:
            line = failure_line(error)
            if line is None:
                raise
            self._fail(line)
            if not line.startswith("out of memory"):
                self._ahead = None  # nothing more will come from a device that failed
        finally:
            self._settle()

    def _settle(self) -> None:
        """Nothing is under way any more: the request's energy ends here."""
        try:
            if self._ahead is not None:
                self._ahead.drain()
        except Exception as error:
            line = failure_line(error)
            if line is None:
                raise
            self._fail(line)

    def cancel(self, rows: Collection[int] | None = None) -> None:
        """End what has not ended, of `rows` (None: of all), with reason `cancelled`."""
        for row in self.active + self.prompts.waiting:
            if rows is None or row.number in rows:
                row.end(StopReason.CANCELLED)

    def _prefill(self) -> None:
        """All prompts; the first token of each row that begins now is chosen at its end."""
        elapsed_s = self.prompts.compute()
        prefill = Prefill(tuple(len(row.request.prompt_ids) for row in self.rows), elapsed_s)
        for hook in self._hooks:
            _call(hook.on_prefill, prefill)

    def _decode(self) -> None:
        """The next token of every active row; on a device with a loop of its own, from there if it can."""
        rows, ahead = self.active, self._ahead
        self._probing.board(rows)
        lacking = {len(row.tokens) - self._cache.length(row.cache_row) for row in rows}
        if ahead is not None and (ahead.is_busy or lacking == {1}):
            ahead.next(rows)
        else:
            self._forward(rows)

    def _forward(self, rows: Sequence[Row]) -> None:
        """Feed what the rows' cache lacks, and choose the next token of each."""
        fed: list[int] = []
        new: dict[int, int] = {}
        shares, work = [], []
        for row in rows:
            tokens = row.tokens[self._cache.length(row.cache_row) :]
            fed += tokens
            new[row.cache_row] = len(tokens)
            shares.append(Share(row.number, row.phase, len(tokens)))
            work.append(RowWork(len(tokens), len(row.tokens)))
        riders = list(self._probing.riders.shares())
        for cache_row, tokens, share, row_work in riders:
            fed += tokens
            new[cache_row] = len(tokens)
            shares.append(share)
            work.append(row_work)
        before_j = self._ledger.spent().spent_j if riders else 0.0
        self._ledger.begin("decode", work)
        layout = self._cache.extend(new)
        logits, hidden = self._model.forward(fed, layout, self._cache, taps=self._taps)
        self._choose(rows, logits[: len(rows)], hidden, forward=len(self._ledger.marks))
        self._ledger.end(shares)
        if riders:
            self._probing.hear(logits[len(rows) :], self._ledger.spent().spent_j - before_j)

    def _choose(
        self, rows: Sequence[Row], logits: Tensor, hidden: Mapping[int, Tensor], *, forward: int | None
    ) -> None:
        """The next token of each row. logits (B, V), hidden {layer: (B, E)}; `forward`: which gave them."""
        draws = [Draw(row.sampling, row.tokens, row.number, len(row.tokens)) for row in rows]
        for index, (row, token) in enumerate(zip(rows, sample_rows(logits, draws), strict=True)):
            row.logits = logits[index] if self._keep_logits else None
            row.hidden = {layer: states[index] for layer, states in hidden.items()}
            row.last_forward, row.chosen = forward, token
        if self._scores:
            _score(rows, logits)

    def _emit(self, row: Row, token: int) -> Iterator[Step]:
        """One chosen token, what the policies make of it, and the tokens they inject."""
        row.chosen = None
        step = self._step(row, token, forward=row.last_forward, chosen=True)
        injected = self._ask(row, step) if row.ended is None else ()
        yield from self._publish(step)
        yield from self._inject(row, injected)

    def _inject(self, row: Row, tokens: Sequence[int]) -> Iterator[Step]:
        for token in tokens:
            if row.ended is None:
                yield from self._publish(self._step(row, token, forward=None, chosen=False))

    def _step(self, row: Row, token: int, *, forward: int | None, chosen: bool) -> Step:
        text = row.emit(token, forward=forward)
        self._ledger.count(row.phases[-1], 1)
        return Step(
            row=row.number,
            index=row.new_tokens - 1,
            token_id=token,
            text=text,
            phase=row.phases[-1],
            active_rows=len(self.active),
            forced=not chosen,
            stop=row.ended,
            _energy=self._ledger.spent,
            _predict=self._predict,
            _budget_j=self._dial.budget_j,
            _logits=row.logits if chosen else None,
            _log_probability=row.log_probability if chosen and self._scores else None,
            _hidden=row.hidden if chosen else {},
        )

    def _publish(self, step: Step) -> Iterator[Step]:
        step.stop = self.rows[step.row].ended
        for hook in self._hooks:
            _call(hook.on_step, step)
        yield step

    def _ask(self, row: Row, step: Step) -> Sequence[int]:
        """What the row's policies make of a token that did not end it.

        Every policy sees it. A stop wins over a probe, a probe over an injection, the first policy over the
        next; but every probe is read, once for all policies that ask the same.
        """
        if not row.request.policies:
            return ()
        asked: list[tuple[StopPolicy, Stop | Probe | Inject]] = []
        for policy in row.request.policies:
            action = _call(policy.on_token, step)
            if action is not None:
                asked.append((policy, _checked(action, policy, (Stop, Probe, Inject))))
        for policy, action in asked:
            if isinstance(action, Stop):
                return self._stop(row, step, action, policy)
        late = row.phase is Phase.THINK and len(row.tokens) >= row.think_limit
        if late and row.bounds_thinking() and row.has_room_to_answer():
            return self._stop(row, step, Stop(StopReason.MAX_TOKENS), None)
        probes = [(policy, action) for policy, action in asked if isinstance(action, Probe)]
        for policy, probe in probes:
            self._probing.ask(row, step, policy, probe)
        for _, action in asked:
            if isinstance(action, Inject) and not probes:
                return self._tokenizer.encode_inside(action.text)
        return ()

    def _stop(self, row: Row, step: Step, stop: Stop, policy: StopPolicy | None) -> Sequence[int]:
        """End the row, or its thinking; returns the tokens to inject."""
        closed_itself = step.phase is Phase.THINK and row.phase is Phase.ANSWER
        if closed_itself and stop.reason is not StopReason.GIVE_UP:
            return ()  # the model closed its thinking with this very token: it answers already
        name = name_of(policy) if policy is not None else None
        if row.phase is Phase.THINK and stop.reason is not StopReason.GIVE_UP:
            return row.close_thinking(stop.reason, name)
        step.text += row.end(stop.reason, name)
        return ()

    def _run_probes(self) -> Iterator[Step]:
        """Every policy that asked hears of its probe's reading; the first that stops the row does."""
        for row, step, policies, reading in self._probing.readings():
            actions = [(policy, _call(policy.on_probe, step, reading)) for policy in policies]
            stops = [(_checked(a, policy, (Stop,)), policy) for policy, a in actions if a is not None]
            for stop, policy in stops[:1]:
                yield from self._inject(row, self._stop(row, step, stop, policy))

    def _predict(self, steps: int) -> tuple[float, float]:
        work = [RowWork(1, len(row.tokens)) for row in self.active]
        return self._ledger.predict(work, steps)

    def _reset_policies(self, row: Row, thinking: ThinkingFormat | None) -> None:
        context = Context(
            row=row.number,
            prompt_tokens=len(row.request.prompt_ids),
            max_new_tokens=row.limit - len(row.request.prompt_ids),
            budget_j=self._dial.budget_j,
            answer_cost_tokens=row.answer_room,
            step_separator=thinking.step_separator if thinking else None,
            gain_error=self._ledger.poller.meter.sensor.gain_error,
            question=row.request.question,
            category=row.request.category,
            curve=self._ledger.predictor.curve if self._ledger.predictor else None,
            dial=self._dial,
            temperature=row.request.sampling.temperature,
        )
        for policy in row.request.policies:
            _call(policy.reset, context)

    def _fail(self, message: str) -> None:
        self.error = self.error or message  # the first is the cause of those that follow
        for row in self.active + self.prompts.waiting:
            row.end(StopReason.ERROR)


def _score(rows: Sequence[Row], logits: Tensor) -> None:
    """The log-probability of every row's chosen token; logits (B, V)."""
    chosen = torch.tensor([[row.chosen] for row in rows], device=logits.device)
    found = logits.log_softmax(-1).gather(-1, chosen)[:, 0].tolist()
    for row, log_probability in zip(rows, found, strict=True):
        row.log_probability = log_probability


def _call(method: Callable[..., Any], *arguments: object) -> Any:
    """A user's code must not take the answer down: its error becomes ours, with name and place."""
    try:
        return method(*arguments)
    except TokenjouleError:
        raise
    except Exception as error:
        watcher = name_of(getattr(method, "__self__", method))
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise TokenjouleError(f"{watcher} failed: {type(error).__name__}: {error} ({place})") from error


def _checked(action: object, policy: StopPolicy, allowed: tuple[type, ...]) -> Any:
    """`action`, if it is one that the loop knows."""
    if not isinstance(action, allowed):
        expected = ", ".join(kind.__name__ for kind in allowed)
        raise TokenjouleError(f"{name_of(policy)} returned {action!r}; expected {expected} or None")
    sound = {
        Stop: lambda a: isinstance(a.reason, StopReason),
        Inject: lambda a: isinstance(a.text, str),
        Probe: lambda a: (a.text is None or isinstance(a.text, str)) and isinstance(a.max_tokens, int),
    }
    if not sound[type(action)](action):
        raise TokenjouleError(f"{name_of(policy)} returned {action!r}, which has a value of the wrong type")
    return action
