"""One row of a request: its tokens, its phase, its text, its limits, and why it ended.

A row knows nothing of other rows, of the cache or of energy; the decode loop moves it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engine.errors import UsageError
from engine.sampler import Sampling
from engine.steps import Phase, StopPolicy, StopReason
from engine.text import StopSequences
from engine.thinking import ThinkingFormat
from engine.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True, slots=True)
class Request:
    """What one row is asked for. `policies` are this row's own copies. Raises `UsageError` for nothing."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_sequences: tuple[str, ...] = ()
    eos_ids: frozenset[int] = frozenset()
    policies: tuple[StopPolicy, ...] = ()
    question: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not all(self.stop_sequences):
            raise UsageError("a stop sequence must not be empty")


@dataclass(frozen=True, slots=True)
class Marks:
    """A thinking format as token ids, and the bounded answer behind a forced close."""

    opener: tuple[int, ...]
    closer: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    starts_open: bool
    answer_tokens: int

    @classmethod
    def of(cls, format: ThinkingFormat, tokenizer: Tokenizer, answer_tokens: int) -> "Marks":
        opener = () if format.opener is None else tuple(tokenizer.encode_inside(format.opener))
        return cls(
            opener=opener,
            closer=tuple(format.closer_ids(tokenizer)),
            answer_prefix=tuple(format.answer_prefix_ids(tokenizer)),
            starts_open=format.opener is None,
            answer_tokens=answer_tokens,
        )

    @property
    def answer_cost_tokens(self) -> int:
        """The longest a forced answer can get: closer, answer prefix, answer."""
        return len(self.closer) + len(self.answer_prefix) + self.answer_tokens


@dataclass(slots=True)
class Row:
    """State of one row. `tokens`: prompt and new ones; `limit`: how long `tokens` may get.

    `begun`: it runs or has run; until then it has no `cache_row`. `chosen`: the token sampled by the
    last forward, not yet part of the row. `from_forward`: for each new token the number of the forward that
    chose it, None for the first (prefill's) and for injected ones.
    `probes`: how many were read on this row, `ridden` of them with its own steps.
    """

    number: int
    cache_row: int
    request: Request
    tokenizer: Tokenizer
    marks: Marks | None
    limit: int
    max_context: int
    begun: bool = False
    tokens: list[int] = field(init=False)
    phase: Phase = field(init=False)
    chosen: int | None = None
    logits: Tensor | None = None
    log_probability: float | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    last_forward: int | None = None
    from_forward: list[int | None] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    text: str = ""
    answer_from: int | None = None
    ended: StopReason | None = None
    thinking_cut: StopReason | None = None
    cut_by: str | None = None
    probes: int = 0
    ridden: int = 0

    _answer_sampling: Sampling = field(init=False)
    _stream: TextStream = field(init=False)
    _stops: StopSequences = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        self.phase = Phase.ANSWER
        if self.marks is not None:
            self._enter_first_phase(self.marks)
        self._answer_sampling = self.request.sampling.of_answer
        self._stream = self.tokenizer.stream(self.tokens)
        self._stops = StopSequences(self.request.stop_sequences)

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def sampling(self) -> Sampling:
        """How the next token is chosen: a marked answer may have a temperature of its own."""
        marked = self.marks is not None and self.phase is Phase.ANSWER
        return self._answer_sampling if marked else self.request.sampling

    @property
    def answer_room(self) -> int:
        """New tokens kept for a forced answer: all it may take, but at most half of what there is."""
        if self.marks is None:
            return 0
        shortest = len(self.marks.closer) + len(self.marks.answer_prefix) + 1
        half = (self.limit - len(self.request.prompt_ids)) // 2
        return min(self.marks.answer_cost_tokens, max(half, shortest))

    @property
    def think_limit(self) -> int:
        """How long `tokens` may get while a budgeted row thinks, so that an answer still fits."""
        return self.limit - self.answer_room

    def emit(self, token: int, *, forward: int | None) -> str:
        """Make `token` part of the row; returns the text that is certain now. Sets `ended` where it ends."""
        self.tokens.append(token)
        self.from_forward.append(forward)
        injected = forward is None and self.new_tokens > 1
        piece, stopped = "", False
        if injected:  # a stop sequence is for what the model writes: the closer or the prefix may hold it
            piece = self._stops.finish() + self._stream.push(token)
        elif token not in self.request.eos_ids:  # which is no text, even where the tokenizer could write it
            piece = self._stream.push(token)
            if self.request.stop_sequences:  # `pending` decodes: nothing to ask for at every token of 16 rows
                piece, stopped = self._stops.push(piece, self._stream.pending)
        self.text += piece
        before = self.phase
        self._follow_phase()
        # A token that the row wrote itself belongs to the phase it was written in, an injected one to the
        # phase it opens.
        self.phases.append(self.phase if injected else before)
        if token in self.request.eos_ids:
            self.ended = StopReason.EOS
        elif stopped:
            self.ended = StopReason.STOP_SEQUENCE
        elif len(self.tokens) >= self.limit:
            full = len(self.tokens) >= self.max_context
            self.ended = StopReason.CONTEXT_FULL if full else StopReason.MAX_TOKENS
        return piece + (self._rest() if self.ended else "")

    def end(self, reason: StopReason, policy: str | None = None) -> str:
        """End the row from outside; returns the text that was still held back."""
        self.ended, self.chosen = reason, None
        if self.thinking_cut is None:
            self.cut_by = policy
        return self._rest()

    def close_thinking(self, reason: StopReason, policy: str | None) -> Sequence[int]:
        """The tokens to inject so that the row answers now, in at most `answer_tokens` more."""
        assert self.marks is not None and self.phase is Phase.THINK
        self.thinking_cut, self.cut_by, self.chosen = reason, policy, None
        self.phase, self.answer_from = Phase.ANSWER, len(self.tokens) + len(self.marks.closer)
        self.limit = min(self.limit, len(self.tokens) + self.marks.answer_cost_tokens)
        return self.marks.closer + self.marks.answer_prefix

    def answer(self) -> str | None:
        """The text behind the closer and the answer prefix, cut where a stop sequence ended the row.

        None on a model that does not mark its thinking, and where the row thought and never answered.
        """
        if self.marks is None or self.phase is Phase.THINK:
            return None
        ids = self.tokens[max(self.answer_from or 0, len(self.request.prompt_ids)) :]
        prefix = self.marks.answer_prefix
        if tuple(ids[: len(prefix)]) == prefix:
            ids = ids[len(prefix) :]
        text = self.tokenizer.decode([token for token in ids if token not in self.request.eos_ids])
        return text[: len(text) - self._stops.dropped].strip()

    def has_room_to_answer(self) -> bool:
        """Whether closer, prefix and one token of an answer still fit."""
        needed = 0 if self.marks is None else len(self.marks.closer) + len(self.marks.answer_prefix) + 1
        return len(self.tokens) + needed <= self.limit

    def bounds_thinking(self) -> bool:
        """Whether a policy of this row budgets its thinking, which then leaves room for an answer."""
        return any(getattr(policy, "bounds_thinking", False) for policy in self.request.policies)

    def _rest(self) -> str:
        if self.ended is StopReason.STOP_SEQUENCE:
            return ""
        piece, stopped = self._stops.push(self._stream.finish())
        rest = piece + ("" if stopped else self._stops.finish())
        self.text += rest
        return rest

    def _enter_first_phase(self, marks: Marks) -> None:
        """Thinking, unless nothing opened it or the prompt itself closed it again."""
        opened = 0 if marks.starts_open else _last(self.tokens, marks.opener)
        closed = _last(self.tokens, marks.closer)
        if opened is not None and (closed is None or closed < opened):
            self.phase = Phase.THINK
        elif closed is not None:
            self.answer_from = closed + len(marks.closer)

    def _follow_phase(self) -> None:
        marks = self.marks
        if marks is None:
            return
        if self.phase is Phase.THINK and _ends_with(self.tokens, marks.closer):
            self.phase, self.answer_from = Phase.ANSWER, len(self.tokens)
        elif self.phase is Phase.ANSWER and marks.opener and _ends_with(self.tokens, marks.opener):
            self.phase = Phase.THINK


def own_copy(policy: StopPolicy) -> StopPolicy:
    """A row's own. Raises `UsageError` for one that cannot be copied."""
    try:
        return copy.deepcopy(policy)
    except Exception as error:
        raise UsageError(f"{type(policy).__name__} cannot be copied for each row: {error}") from error


def _ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    return bool(end) and tuple(tokens[-len(end) :]) == tuple(end)


def _last(tokens: Sequence[int], part: Sequence[int]) -> int | None:
    """Where `part` last begins in `tokens`."""
    starts = range(len(tokens) - len(part), -1, -1)
    return next((i for i in starts if tuple(tokens[i : i + len(part)]) == tuple(part)), None)
