"""What the decode loop shows of itself (`Step`), what may steer it (`StopPolicy`), what may watch (`Hook`).

A hook or policy names what it `needs`; what no one asks for is neither computed nor kept:
"logits" (V,) fp32 that the token was chosen from; "logprob" the token's log-probability by these; "hidden:L"
(E,) state after layer L at the position that gave the token; "probe" the policy returns `Probe`; "sync" it
must act before the next token is computed.
On a GPU steps run one ahead of what the host has read: a policy with no need but "logprob" acts one step
late, and what was fed in vain is booked as `discarded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from engine.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.energy.curve import OperatingCurve
    from engine.result import Generation
    from engine.stop.dial import Dial


class StopReason(StrEnum):
    """Why a row ended, or why its thinking was cut short."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    CONTEXT_FULL = "context_full"
    TOKEN_BUDGET = "token_budget"
    JOULE_BUDGET = "joule_budget"
    POLICY = "policy"
    GIVE_UP = "give_up"
    CANCELLED = "cancelled"
    ERROR = "error"


class Phase(StrEnum):
    """What a forward is booked under. Plain generation is `answer`."""

    PREFILL = "prefill"
    THINK = "think"
    PROBE = "probe"
    ANSWER = "answer"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Stop:
    """End this row; while it thinks, end the thinking and have it answer (but `GIVE_UP` ends the row)."""

    reason: StopReason = StopReason.POLICY


@dataclass(frozen=True, slots=True)
class Inject:
    """Make this text the next tokens of the row, as if it had written them."""

    text: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask, off the record, what would follow `text` (None: closer and answer prefix), greedily.

    At most `max_tokens` tokens are read, fewer at an end-of-sequence token; the row goes on as if nothing had
    been asked, so its own tokens are those of a run without probes. The cost is booked under `probe`.
    `choices`: texts of one token each, such as the letters of a multiple-choice question, to be weighed
    against each other as the first token read.
    """

    text: str | None = None
    max_tokens: int = 1
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeReading:
    """What a probe found. `probabilities` (V,) fp32 and `entropy` (nats) are of the first token read.

    `answer`: the text, without an end-of-sequence token; `complete`: there was one, so it is not cut short.
    `choices`: the share of each of the probe's choices in the probability that all of them have.
    """

    answer: str
    token_ids: tuple[int, ...]
    probabilities: Tensor
    entropy: float
    energy_j: float
    complete: bool = True
    choices: Mapping[str, float] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """The probability of the first token read."""
        return float(self.probabilities[self.token_ids[0]])


@dataclass(frozen=True, slots=True)
class EnergySoFar:
    """The request's joules up to now, all rows: read from the meter where it has settled, predicted since.

    `sd_j` is None where the source allows no interval. `settled_j` is the part that was read.
    """

    spent_j: float
    sd_j: float | None
    settled_j: float


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is told when a row begins. `answer_cost_tokens`: closer, prefix and bounded answer.

    `curve`: what requests cost on this model and device, in the meter's joules; None unless one was fitted
    here (`python -m bench.curves`). `dial`: price and budget, which may change while the row runs.
    `temperature`: of its thoughts.
    """

    row: int
    prompt_tokens: int
    max_new_tokens: int
    budget_j: float | None
    answer_cost_tokens: int
    step_separator: str | None
    gain_error: float | None
    question: str | None = None
    category: str | None = None
    curve: OperatingCurve | None = None
    dial: Dial | None = None
    temperature: float | None = None

    @property
    def price(self) -> float | None:
        """Accuracy points per joule as of now; None where the request names no price. Read it each time."""
        return None if self.dial is None else self.dial.price


@dataclass(slots=True)
class Step:
    """One new token of one row. `forced`: it was injected, no forward chose it. `stop`: it is the last.

    `index` counts the row's new tokens from 0; `text` is what may be printed now (text that could still turn
    into a stop sequence or is half a character is held back, and comes with the result where the row is ended
    from outside).
    """

    row: int
    index: int
    token_id: int
    text: str
    phase: Phase
    active_rows: int
    forced: bool = False
    stop: StopReason | None = None
    _energy: Callable[[], EnergySoFar] | None = None
    _predict: Callable[[int], tuple[float, float]] | None = None
    _budget_j: float | None = None
    _logits: Tensor | None = None
    _hidden: Mapping[int, Tensor] = field(default_factory=dict)
    _log_probability: float | None = None

    def logits(self) -> Tensor:
        """(V,) fp32. Raises `ValueError` unless "logits" is among the needs (forced tokens have none)."""
        if self._logits is None:
            raise ValueError('no logits here: "logits" is not in needs, or the token was injected')
        return self._logits

    def log_probability(self) -> float:
        """Of the token by the model itself, in nats: before temperature, filters and penalty.

        Raises `ValueError` unless "logprob" is among the needs (forced tokens have none).
        """
        if self._log_probability is None:
            raise ValueError('no log-probability: "logprob" is not in needs, or the token was injected')
        return self._log_probability

    def hidden(self, layer: int) -> Tensor:
        """(E,). Raises `ValueError` unless "hidden:<layer>" is among the needs."""
        if layer not in self._hidden:
            raise ValueError(f'no hidden state here: "hidden:{layer}" is not in needs, or it was injected')
        return self._hidden[layer]

    def energy(self) -> EnergySoFar:
        """Joules of the request so far. Reads the meter's log; costs nothing unless called."""
        if self._energy is None:
            raise ValueError("this step was made without a ledger")
        return self._energy()

    def predicted_j(self, tokens: int = 1) -> float:
        """Expected joules of the next `tokens` decode steps of all active rows."""
        return self._prediction(tokens)[0]

    def predicted_upper_j(self, tokens: int = 1) -> float:
        """As `predicted_j`, but an upper bound (99 %, on the costs seen so far)."""
        return self._prediction(tokens)[1]

    def budget_left_j(self) -> float | None:
        """Joule budget minus what is spent; None without a budget."""
        return None if self._budget_j is None else self._budget_j - self.energy().spent_j

    def _prediction(self, tokens: int) -> tuple[float, float]:
        if self._predict is None:
            raise ValueError("this step was made without a ledger")
        return self._predict(tokens)


@dataclass(frozen=True, slots=True)
class Prefill:
    """The rows' prompts are computed. `prompt_tokens` per row."""

    prompt_tokens: tuple[int, ...]
    elapsed_s: float


class Hook(Protocol):
    """Watches. What it returns is ignored; what it raises ends the run with reason `error`."""

    needs: frozenset[str]

    def on_prefill(self, prefill: Prefill) -> None: ...
    def on_step(self, step: Step) -> None: ...
    def on_end(self, result: Generation) -> None: ...


class StopPolicy(Protocol):
    """Steers one row. Each row gets its own copy, reset before its first token."""

    needs: frozenset[str]

    def reset(self, context: Context) -> None: ...
    def on_token(self, step: Step) -> Stop | Probe | Inject | None: ...
    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None: ...


def tapped_layers(needs: frozenset[str]) -> frozenset[int]:
    """The L of every "hidden:L". Raises `UsageError` for a need that no engine can meet."""
    layers = set()
    for need in needs:
        name, _, layer = need.partition(":")
        if name == "hidden" and layer.isdigit():
            layers.add(int(layer))
        elif need not in ("logits", "logprob", "probe", "sync"):
            raise UsageError(
                f'unknown need {need!r}; known: "logits", "logprob", "hidden:LAYER", "probe", "sync"'
            )
    return frozenset(layers)
