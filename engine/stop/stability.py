"""Stop thinking when the answer has stopped changing: by probes, or by what the written steps end in."""

from collections.abc import Callable

from engine.errors import UsageError
from engine.steps import Context, Probe, ProbeReading, Step, Stop
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints

Same = Callable[[str, str], bool]


def exactly(one: str, other: str) -> bool:
    """Equality of answers as text."""
    return one.strip() == other.strip()


class Streak:
    """How many in a row were the same. An empty text, an answer that is none, ends the streak."""

    def __init__(self, same: Same) -> None:
        self._same = same
        self.forget()

    def forget(self) -> None:
        self._last, self.length = "", 0

    def add(self, text: str) -> int:
        """The length of the streak with `text`."""
        again = bool(self.length) and self._same(self._last, text)
        self._last, self.length = text, 0 if not text.strip() else self.length + 1 if again else 1
        return self.length


class AnswerStability(Policy):
    r"""Stop when probes at `k` checkpoints in a row read the same answer of up to `answer_tokens` tokens.

    `same`: a grader's equality, exact text unless told otherwise. `text`: what is asked in place of closer
    and answer prefix; `ends`: what an answer to it ends with ("}" behind "\boxed{"). An answer that neither
    ends so nor with the end of sequence was cut short, and counts as none: long ones begin alike. After
    Dynasor's Certaindex (arXiv 2412.20993), which probes every 32 or 64 tokens (`every`), not at step ends.
    """

    needs = frozenset({"probe"})

    def __init__(
        self,
        k: int = 3,
        *,
        answer_tokens: int = 4,
        every: int | None = None,
        text: str | None = None,
        ends: str = "",
        same: Same = exactly,
    ) -> None:
        self.k, self.answer_tokens, self.every = _at_least_two(k), answer_tokens, every
        self.text, self.ends = text, ends
        if answer_tokens < 1:
            raise UsageError(f"answer_tokens must be at least 1, not {answer_tokens}")
        self._streak, self._checkpoints = Streak(same), Checkpoints(every)

    def reset(self, context: Context) -> None:
        self._streak.forget()
        self._checkpoints.begin(context)

    def on_token(self, step: Step) -> Probe | None:
        return Probe(self.text, self.answer_tokens) if self._checkpoints.reached(step) else None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        answer, ended = reading.answer, reading.complete
        if self.ends and self.ends in answer:
            answer, ended = answer.partition(self.ends)[0], True
        return Stop() if self._streak.add(answer if ended else "") >= self.k else None


def tail(step_text: str) -> str:
    """What a written step ends in: the text behind its last "=", else its last word; "" for an empty one."""
    _, equals, behind = step_text.strip().rpartition("=")
    if equals:
        return behind.strip()
    return behind.split()[-1] if behind else ""


class TailStability(Policy):
    """Stop when `k` written steps in a row end in the same text (see `tail`). It asks nothing: no probes."""

    def __init__(self, k: int = 3, *, same: Same = exactly) -> None:
        self.k = _at_least_two(k)
        self._streak, self._ends = Streak(same), Checkpoints()

    def reset(self, context: Context) -> None:
        self._streak.forget()
        self._ends.begin(context)

    def on_token(self, step: Step) -> Stop | None:
        if not self._ends.reached(step):
            return None
        return Stop() if self._streak.add(tail(self._ends.text)) >= self.k else None


def _at_least_two(k: int) -> int:
    if k < 2:
        raise UsageError(f"a streak must be at least 2 long, not {k}")
    return k
