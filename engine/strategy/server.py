"""A model on an OpenAI-compatible server (vLLM, SGLang): asked within its time, its answers distrusted."""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.energy.curve_store import content_digest, load_curve
from engine.errors import TokenjouleError
from engine.fetch import Reply, fetch
from engine.predict.request_costs import Cost, by_curve
from engine.strategy.ask import Technique
from engine.strategy.ballot import majority
from engine.strategy.completion import Completion
from engine.strategy.said import Said

PAUSE_S = 0.2  # before another try, where the server names no time
MOST_WORDS = 160  # bytes of a refusal that are told
_NOTHING = Completion()  # was said
_STEPS = {"none": "Think step by step", "brief": "Think step by step and keep it brief"}
_STEPS |= {"very-brief": "Think in a few words a step"}


@dataclass(frozen=True, slots=True)
class Server:
    """`served`: the model's name there. `api_key_env`: the variable of the environment that holds its key.

    Joules are told by the file of an operating `curve`, or `joules_per_token` (the paper's Eq. 1).
    `retries`: on top of the first try. Raises `ValueError` naming the field that is wrong.
    """

    base_url: str
    served: str
    api_key_env: str | None = None
    curve: str | None = None
    joules_per_token: float | None = None
    timeout_s: float = 30.0
    retries: int = 1

    def __post_init__(self) -> None:
        if not self.served:
            raise ValueError("served: missing, the model's name on the server")
        for name in ("timeout_s", "joules_per_token"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: must be a number above 0, not {value}")
        if self.retries < 0:
            raise ValueError("retries: must be at least 0")

    def identity(self) -> dict[str, Any]:
        """What an answer by this model depends on. How long it is waited for, and by which key, is not."""
        kept = {"base_url": self.base_url, "served": self.served}
        return {**kept, "curve": content_digest(self.curve), "joules_per_token": self.joules_per_token}

    def joules(self, prompt_tokens: int, new_tokens: int, samples: int = 1) -> tuple[float | None, str]:
        """(J, where from) of a request, `new_tokens` of all samples together; None where tokens or cost are
        not known. Raises `TokenjouleError`.
        """
        cost = None if min(prompt_tokens, new_tokens) < 1 else self.cost(samples)
        if cost is None:
            return None, ""
        return cost(prompt_tokens, new_tokens), "table" if self.curve is None else "curve"

    def cost(self, samples: int = 1) -> Cost | None:
        """What a request takes, in J, as `joules` says; None where not known. Reads the curve's file once for
        all requests. Raises `TokenjouleError`.
        """
        if self.curve is not None:
            return by_curve(load_curve(Path(self.curve)), samples)
        if (each_j := self.joules_per_token) is None:
            return None
        return lambda n, m: each_j * (max(round(n), 1) + max(round(m), 1))


class _Problem(Exception):
    """`sent`: the server was asked, and may have worked. `told`: what it said all the same.

    `again`: another try might help, not before `after_s`.
    """

    def __init__(
        self,
        line: str,
        *,
        sent: bool = True,
        again: bool = False,
        after_s: float = PAUSE_S,
        told: Completion = _NOTHING,
    ) -> None:
        super().__init__(line)
        self.sent, self.again, self.after_s, self.told = sent, again, after_s, told


def answer_there(
    server: Server, question: str, way: Technique, *, budget_tokens: int, deadline_s: float, seed: int = 0
) -> Said:
    """All tries together end within `deadline_s` and the server's own time-out. Nothing is raised.

    Joules are those of all tries: None where those of any that was sent are not known. An answer that was cut
    at its most tokens is none. The question comes first and the instruction last, so that the server's prefix
    cache serves all ways.

    The samples of a vote are one request, whose prompt is read once. A sample that does not come abstains, as
    one does that was cut. A server tells no log-probability unasked: of tied answers the first wins.
    """
    begun_s = time.monotonic()
    ends_s = begun_s + min(server.timeout_s, deadline_s)
    told = "Give only the final answer."
    if way.technique != "direct":
        told = f"{_STEPS[way.directive]}, then end with the final answer on a line of its own."
    body: dict[str, Any] = {
        "model": server.served,
        "messages": [{"role": "user", "content": f"{question}\n\n{told}"}],
        "max_tokens": budget_tokens + way.answer_tokens,
        "temperature": way.temperature,
    }
    if way.temperature:
        body["seed"] = seed
    if way.samples > 1:
        body["n"] = way.samples
    spent = _Spent(server)
    tries, line = 0, "no time is left"
    while tries <= server.retries and time.monotonic() < ends_s:
        tries += 1
        try:
            found = _ask(server, body, ends_s)
        except TokenjouleError as error:  # nothing was sent: httpx is missing
            line = str(error)
            break
        except _Problem as error:
            line = str(error)
            if error.sent:
                spent.add(error.told)
            if not error.again or time.monotonic() + error.after_s >= ends_s:
                break
            time.sleep(error.after_s)
            continue
        spent.add(found)
        return spent.answered(begun_s, way.samples)
    return spent.said(begun_s, text=spent.told.text, error=f"{server.base_url}: {line} (tries: {tries})")


@dataclass
class _Spent:
    """Of all tries so far: joules, where from, what the last said. `notes`: why joules are missing."""

    server: Server
    energy_j: float | None = 0.0
    source: str = ""
    notes: list[str] = field(default_factory=list)
    told: Completion = _NOTHING

    def add(self, told: Completion) -> None:
        """A try that was sent."""
        self.told, tried_j = told, None
        try:
            tried_j, self.source = self.server.joules(told.prompt_tokens, told.new_tokens, told.came)
        except TokenjouleError as error:  # of the curve's file: what was answered stands all the same
            self.notes = [f"joules are not known: {error}"]
        self.energy_j = None if self.energy_j is None or tried_j is None else self.energy_j + tried_j

    def answered(self, begun_s: float, samples: int) -> Said:
        """By the last try; one sample is a vote of one, of which nothing is told."""
        ballot = majority(self.told.answers, [None] * len(self.told.answers))
        assert ballot.winner is not None and ballot.answer is not None, "else it is a problem"
        if odd := self.told.odd(samples):
            self.notes.append(odd)
        found: dict[str, Any] = {"answer": ballot.answer, "text": self.told.texts[ballot.winner]}
        if samples > 1:
            found |= {"votes": ballot.votes, "confidence": ballot.votes[ballot.answer] / samples}
        return self.said(begun_s, **found)

    def said(self, begun_s: float, **found: Any) -> Said:
        return Said(
            energy_j=self.energy_j,
            energy_source="" if self.energy_j is None else self.source,
            prompt_tokens=self.told.prompt_tokens,
            new_tokens=self.told.new_tokens,
            elapsed_s=time.monotonic() - begun_s,
            note="; ".join(self.notes) or None,
            **found,
        )


def _ask(server: Server, body: dict[str, Any], ends_s: float) -> Completion:
    """With an answer in it. Raises `_Problem`."""
    headers = {}
    if server.api_key_env is not None:
        if not os.environ.get(server.api_key_env):
            line = f"the environment variable {server.api_key_env} holds no key"
            raise _Problem(line, sent=False)
        headers["Authorization"] = f"Bearer {os.environ[server.api_key_env]}"
    url = f"{server.base_url.rstrip('/')}/chat/completions"
    reply = fetch(url, within_s=max(ends_s - time.monotonic(), 0.01), headers=headers, body=body)
    if reply.problem:
        raise _Problem(reply.problem, again=True)
    if reply.status != 200:
        after = reply.headers.get("retry-after", "")
        after_s = float(after) if after.isdecimal() else PAUSE_S  # "²" is a digit, and no number
        again = reply.status == 429 or reply.status >= 500
        raise _Problem(_refusal(reply, body.get("n")), again=again, after_s=after_s)
    try:
        told = Completion.read(reply.body, body.get("n", 1))
    except ValueError as error:
        raise _Problem(f"answers nonsense: {reply.body[:60]!r}", again=True) from error
    if not told.text:
        raise _Problem("answers without a text", again=True, told=told)
    if not any(told.answers):
        raise _Problem(f"what it answered was cut at {body['max_tokens']} tokens", told=told)
    return told


def _refusal(reply: Reply, samples: int | None) -> str:
    """In the server's own words where it was asked for samples, which some do not give: llama.cpp's answers
    with status 500, "Only one completion choice is allowed". Not of a key that is refused: they may hold it.
    """
    line = f"answers with status {reply.status}"
    if samples is None or reply.status in (401, 403):
        return line
    words = reply.body[:MOST_WORDS].decode(errors="replace")
    return f"{line} where {samples} samples are asked for: {words!r}"
