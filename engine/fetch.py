"""One HTTP request that ends in time, whatever the other side does: through httpx, watched by a clock."""

import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from engine.errors import TokenjouleError

MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` 0: there was none, and `problem` says why."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def fetch(url: str, *, within_s: float, headers: Mapping[str, str] | None = None, body: Any = None) -> Reply:
    """GET, or POST of `body` as JSON. Raises `TokenjouleError` without httpx, and for nothing else.

    It runs on a thread of its own, left behind where it does not end: httpx's time-outs start anew with every
    byte that comes, and a resolver knows none.
    """
    try:
        import httpx
    except ImportError as error:
        raise TokenjouleError(
            "remote arms and services need httpx: pip install 'tokenjoule[router]'"
        ) from error
    replies: list[Reply] = []
    ends_s = time.monotonic() + within_s

    def run() -> None:
        try:
            method, verify = "GET" if body is None else "POST", not url.startswith("http:") and _trusted()
            given: dict[str, Any] = {"json": body, "headers": dict(headers or {}), "verify": verify}
            with httpx.stream(method, url, timeout=within_s, **given) as answer:
                raw = b""
                for part in answer.iter_bytes():
                    raw += part
                    if len(raw) > MOST_BYTES or time.monotonic() > ends_s:
                        break
            if len(raw) > MOST_BYTES:
                replies.append(Reply(problem=f"answers with more than {MOST_BYTES} bytes"))
            else:
                replies.append(Reply(answer.status_code, raw, dict(answer.headers)))
        except httpx.TimeoutException:
            pass  # said below
        except Exception as error:  # httpx's, those of sockets and of codecs
            replies.append(Reply(problem=f"cannot be reached: {error or type(error).__name__}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(within_s)
    late = time.monotonic() > ends_s or not replies
    return Reply(problem=f"no answer within {within_s:.3g} s") if late else replies[0]


@cache
def _trusted() -> ssl.SSLContext:
    """Read once a process, and not at all for a plain address: it takes 0.1 to 0.6 s of the time allowed."""
    import httpx

    return httpx.create_ssl_context()
