"""A model on an OpenAI-compatible server (vLLM, SGLang): asked within its time, its answers distrusted."""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.energy.curve_store import content_digest, load_curve
from engine.errors import TokenjouleError
from engine.fetch import fetch
from engine.strategy.ask import Technique
from engine.strategy.said import Said

PAUSE_S = 0.2  # before another try, where the server names no time
MOST_TOKENS = 10**8  # of one request: a count beyond it is no count
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

    def joules(self, prompt_tokens: int, new_tokens: int) -> tuple[float | None, str]:
        """(J, where from) of a request; None where tokens or cost are not known. Raises `TokenjouleError`."""
        if min(prompt_tokens, new_tokens) < 1:
            return None, ""
        if self.curve is not None:
            return load_curve(Path(self.curve)).predict(prompt_tokens, new_tokens)[0], "curve"
        if self.joules_per_token is None:
            return None, ""
        return self.joules_per_token * (prompt_tokens + new_tokens), "table"


class _Problem(Exception):
    """`sent`: the server was asked, and may have worked. `tokens`: prompt and new, where it said.

    `again`: another try might help, not before `after_s`. `text`: of an answer that is none.
    """

    def __init__(
        self,
        line: str,
        *,
        sent: bool = True,
        again: bool = False,
        after_s: float = PAUSE_S,
        tokens: tuple[int, int] = (0, 0),
        text: str = "",
    ) -> None:
        super().__init__(line)
        self.sent, self.again, self.after_s, self.tokens, self.text = sent, again, after_s, tokens, text


def answer_there(
    server: Server, question: str, way: Technique, *, budget_tokens: int, deadline_s: float
) -> Said:
    """All tries together end within `deadline_s` and the server's own time-out. Nothing is raised.

    Joules are those of all tries: None where those of any that was sent are not known. An answer that was cut
    at its most tokens is none. The question comes first and the instruction last, so that the server's prefix
    cache serves all ways.
    """
    begun_s = time.monotonic()
    ends_s = begun_s + min(server.timeout_s, deadline_s)
    told = "Give only the final answer."
    if way.technique != "direct":
        told = f"{_STEPS[way.directive]}, then end with the final answer on a line of its own."
    body = {
        "model": server.served,
        "messages": [{"role": "user", "content": f"{question}\n\n{told}"}],
        "max_tokens": budget_tokens + way.answer_tokens,
        "temperature": way.temperature,
    }
    spent = _Spent(server)
    tries, text, line = 0, "", "no time is left"
    while tries <= server.retries and time.monotonic() < ends_s:
        tries += 1
        try:
            text, *tokens = _ask(server, body, ends_s)
        except TokenjouleError as error:  # nothing was sent: httpx is missing
            line = str(error)
            break
        except _Problem as error:
            line, text = str(error), error.text
            if error.sent:
                spent.add(*error.tokens)
            if not error.again or time.monotonic() + error.after_s >= ends_s:
                break
            time.sleep(error.after_s)
            continue
        spent.add(*tokens)
        return spent.said(begun_s, text, answer=text.strip().rsplit("\n", 1)[-1].strip())
    return spent.said(begun_s, text, error=f"{server.base_url}: {line} (tries: {tries})")


@dataclass
class _Spent:
    """Of all tries so far: joules, where from, and the tokens of the last. `note`: why joules are missing."""

    server: Server
    energy_j: float | None = 0.0
    source: str = ""
    note: str | None = None
    tokens: tuple[int, int] = (0, 0)

    def add(self, prompt_tokens: int, new_tokens: int) -> None:
        """A try that was sent."""
        self.tokens, tried_j = (prompt_tokens, new_tokens), None
        try:
            tried_j, self.source = self.server.joules(prompt_tokens, new_tokens)
        except TokenjouleError as error:  # of the curve's file: what was answered stands all the same
            self.note = f"joules are not known: {error}"
        self.energy_j = None if self.energy_j is None or tried_j is None else self.energy_j + tried_j

    def said(self, begun_s: float, text: str, *, answer: str | None = None, error: str | None = None) -> Said:
        return Said(
            answer=answer,
            text=text,
            energy_j=self.energy_j,
            energy_source="" if self.energy_j is None else self.source,
            prompt_tokens=self.tokens[0],
            new_tokens=self.tokens[1],
            elapsed_s=time.monotonic() - begun_s,
            error=error,
            note=self.note,
        )


def _ask(server: Server, body: dict[str, Any], ends_s: float) -> tuple[str, int, int]:
    """(text, prompt tokens, new tokens; 0 where the server does not say). Raises `_Problem`."""
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
        raise _Problem(f"answers with status {reply.status}", again=again, after_s=after_s)
    try:
        value = json.loads(reply.body)
        usage = value.get("usage") or {}
        tokens: Any = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        if not all(isinstance(count, int) and 0 < count <= MOST_TOKENS for count in tokens):
            tokens = 0, 0
        [choice, *_] = value["choices"]
        text, ended = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Problem(f"answers nonsense: {reply.body[:60]!r}", again=True) from error
    if not isinstance(text, str) or not text.strip():
        raise _Problem("answers without a text", again=True, tokens=tokens)
    if ended == "length":
        raise _Problem(f"its answer was cut at {body['max_tokens']} tokens", tokens=tokens, text=text)
    return text, *tokens
